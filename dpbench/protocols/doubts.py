"""What a reader of any table should know of the attacks behind it."""

from __future__ import annotations

from collections.abc import Iterable

from dpbench.records.record import Envelope


def not_converged(records: Iterable[Envelope]) -> list[str]:
    """One line that names the attacks which did not converge, by their own word; none where all did."""
    names = "; ".join(record.named.label for record in records if record.converged is False)
    return [f"not converged, by their own loss; a larger budget may recover more: {names}"] if names else []


def clamped(records: Iterable[Envelope]) -> list[str]:
    """What share of an attack's values was outside [0, 1], a line for each attack that was."""
    return [
        f"clamped to [0, 1]: {record.named.label}: {record.notes['clamped']}; expected images in [0, 1]"
        for record in records
        if "clamped" in record.notes
    ]


def missing_metrics(records: Iterable[Envelope], metrics: Iterable[str]) -> list[str]:
    """Why some of these metrics are not there, a line each."""
    missing = {pair for record in records for pair in record.missing_metrics.items() if pair[0] in metrics}
    return [f"no {metric}: {reason}" for metric, reason in sorted(missing)]
