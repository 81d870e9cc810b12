"""What a reader of any table should know of the attacks behind it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dpbench.records.progress import Progress
from dpbench.records.record import Envelope
from dpbench.running.protocol import Protocol


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


def unfinished(protocol: Protocol[Any, Any], run_dir: Path) -> str:
    """`25 of 40 cells of this run are not measured yet`; empty where all are, or the run does not say what it is of."""
    progress = Progress.read(run_dir)
    left = 0 if progress is None else progress.left(protocol.store.files(run_dir))
    if progress is None or not left:
        return ""
    total = len(progress.units)
    return f"{left} of {total} {protocol.unit}{'s' if total > 1 else ''} of this run are not measured yet"
