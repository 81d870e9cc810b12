"""The rules of the gate: when a board is worse than an accepted one, and when two figures cannot be compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, TypeAlias, get_args

import pandas as pd

from dpbench.board.columns import CELL_LAYOUT, OPTIONAL_COLUMNS, Layout, Row, own_metrics
from dpbench.contract.metric import MetricFacts
from dpbench.errors import DpbenchError
from dpbench.gate.findings import METRICS, Comparison, Finding, Kind, Tally, Tolerance, and_more, needed, together
from dpbench.metrics.table import BUILT_IN

HIGHER_IS_WORSE = (
    *(metric for metric in METRICS if metric in BUILT_IN and BUILT_IN[metric].closer == "higher"),
    *("leakage", "reid_top1", "identity_top1", "link_top1"),
)

FIGURES = tuple(f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high"))

BESIDE = ("leakage_metrics", "ensemble", "cell")
"""Columns that say what figures are, where they are there; the others of a board may change."""

STATUSES = ("failed", "unreliable", "incomplete", "ok")
"""What the column `status` may say, worst first."""

ROUNDING = 1e-9

NAMED = 5
"""How many missing columns an error names."""

Values: TypeAlias = dict[str, Any]

Paired: TypeAlias = Callable[[Row, str], tuple[float, float] | None]
"""Row and column -> 95% interval of candidate minus baseline, image by image; None where they share no image."""


def compare(
    candidate: pd.DataFrame,
    baseline: pd.DataFrame,
    *,
    tolerance: Tolerance,
    paired: Paired | None = None,
    apart: Callable[[Row], bool] = lambda row: False,
    layout: Layout = CELL_LAYOUT,
) -> Comparison:
    """What differs, and how much was compared.

    Args:
        candidate: the board under test.
        baseline: the accepted board.
        tolerance: a figure is worse when it is so by more than this, and by more than chance: `paired` excludes 0, or
            without it the figure is outside the interval of the baseline.
        paired: of the records of both, where they are at hand.
        apart: whether a row is known to rest on images of which the other side has none.
        layout: how these boards name their rows.

    Raises:
        DpbenchError: a board is empty, lacks columns, has two rows of the same name, or there is nothing to compare.
    """
    found, accepted = (_rows(board, role, layout) for board, role in ((candidate, "candidate"), (baseline, "baseline")))
    own = _own(candidate, baseline)
    shared = [row for row in accepted if row in found]
    gone, new = [row for row in accepted if row not in found], [row for row in found if row not in accepted]
    changed, gone, new = _changed_settings(gone, new, layout)
    if not shared and not changed:
        raise DpbenchError(
            "candidate and baseline have no row in common: the candidate begins with "
            f"{layout.said(new[0])}, the baseline with {layout.said(gone[0])}; give two boards of one suite"
        )
    findings = [*changed, *(Finding("missing", row, "in the baseline, but not in the candidate") for row in gone)]
    findings += [Finding("new", row, f"not in the baseline; status {found[row]['status']}") for row in new]
    tally = Tally()
    for row in shared:
        findings += _compare_row(row, found[row], accepted[row], tolerance, own, paired, apart(row), tally)
    findings += tally.findings()
    if tally.figures == 0 and not any(finding.fails for finding in findings):
        raise DpbenchError("neither board has a figure that the other has too: there is nothing to compare")
    findings = sorted(together(findings), key=lambda finding: get_args(Kind).index(finding.kind))
    notes = [*tally.notes(), *_identity(shared, found, accepted)]
    return Comparison(findings, list(accepted), tally.figures, notes, layout)


def _own(candidate: pd.DataFrame, baseline: pd.DataFrame) -> dict[str, MetricFacts]:
    """Metrics of the baseline that are not dpbench's own.

    Raises:
        DpbenchError: the candidate reads one of them differently.
    """
    now, was = own_metrics(candidate), own_metrics(baseline)
    for name in now.keys() & was.keys():
        if (now[name].closer, now[name].range) != (was[name].closer, was[name].range):
            raise DpbenchError(
                f"metric {name!r} is read differently in candidate ({now[name].text}) and baseline ({was[name].text}); "
                "measure one of them again"
            )
    return was


def _rows(board: pd.DataFrame, role: str, layout: Layout) -> dict[Row, Values]:
    figures = [column for column in FIGURES if layout.whole or column in board.columns]
    needed = [column for column in (*layout.key, "status", layout.count, *figures) if column not in OPTIONAL_COLUMNS]
    missing = [column for column in needed if column not in board.columns]
    if missing:
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise DpbenchError(
            f"the {role} lacks the columns {', '.join(missing[:NAMED])}{more}; write it again with "
            "`dpbench leaderboard DIR --output FILE.csv`"
        )
    if "origin" in board.columns:
        board = board[board["origin"] != "claimed"]  # nobody measured these here
    if board.empty:
        raise DpbenchError(f"the {role} has no rows; a gate that compares nothing would always pass")
    rows: dict[Row, Values] = {}
    read = dict.fromkeys((*layout.key, *filter(None, [layout.further]), "status", layout.count, *FIGURES, *BESIDE))
    read |= dict.fromkeys(f"{metric}{end}" for metric in own_metrics(board) for end in ("", "_low", "_high"))
    for values in board.reindex(columns=list(read)).rename(columns={layout.count: "images"}).to_dict("records"):
        row = layout.name_of({str(column): value for column, value in values.items()})
        if row in rows:
            raise DpbenchError(f"the {role} has two rows named {layout.said(row)}; keep one of them")
        if values["status"] not in STATUSES:
            raise DpbenchError(
                f"the {role} says status {values['status']!r} for {layout.said(row)}; "
                f"expected one of {', '.join(STATUSES)}"
            )
        rows[row] = {str(column): value for column, value in values.items()}
    finished = [(row, values) for row, values in rows.items() if values["status"] == "ok"]
    empty = [row for row, values in finished if all(pd.isna(values[metric]) for metric in METRICS)]
    if empty:
        raise DpbenchError(
            f"the {role} says ok, but has no figure in {layout.said(empty[0])}{and_more(empty[1:])}: there is nothing "
            "to compare; write it again with `dpbench leaderboard DIR --output FILE.csv`"
        )
    return rows


def _changed_settings(
    gone: Sequence[Row], new: Sequence[Row], layout: Layout
) -> tuple[list[Finding], list[Row], list[Row]]:
    """Rows that are gone and rows that are new, where one thing alone tells them apart; and what remains of both."""
    near = {row: [other for other in new if len(_differing(row, other)) == 1] for row in gone}
    partners = {row: others[0] for row, others in near.items() if len(others) == 1}
    wanted = list(partners.values())
    partners = {row: other for row, other in partners.items() if wanted.count(other) == 1}
    told: dict[str, list[Row]] = defaultdict(list)
    for row, other in partners.items():
        told[_change(row, other, layout)].append(row)
    findings = [
        Finding("changed setting", rows[0], f"{change}; what was measured before is missing", tuple(rows[1:]))
        for change, rows in told.items()
    ]
    met = set(partners.values())
    return findings, [row for row in gone if row not in partners], [row for row in new if row not in met]


def _differing(row: Row, other: Row) -> list[int]:
    return [place for place, (one, two) in enumerate(zip_longest(row, other)) if one != two]


def _change(row: Row, other: Row, layout: Layout) -> str:
    """`gaussian: std=1.0 changed to std=2.0`."""
    (place,) = _differing(row, other)
    column = (*layout.key, layout.further)[place]
    before, after = (given[place] if place < len(given) else "attacker" for given in (row, other))
    if column != "defense_args":
        return f"{column} changed from {before} to {after}"
    gone = [part for part in before.split() if part not in after.split()]
    new = [part for part in after.split() if part not in before.split()]
    return (
        f"{row[layout.key.index('defense')]}: {' '.join(gone) or 'defaults'} changed to {' '.join(new) or 'defaults'}"
    )


def _identity(shared: Sequence[Row], found: Mapping[Row, Values], accepted: Mapping[Row, Values]) -> list[str]:
    """A line where no cell is the one that the baseline holds, as their identities say."""
    pairs = [(_text(found[row], "cell"), _text(accepted[row], "cell")) for row in shared]
    known = [(now, was) for now, was in pairs if now and was]
    if not known or any(now == was for now, was in known):
        return []
    return [
        f"none of {len(known)} cells has the identity that it has in the baseline: data, or the versions of attacks "
        "and defenses, are others"
    ]


def _compare_row(
    row: Row,
    found: Values,
    expected: Values,
    tolerance: Tolerance,
    own: Mapping[str, MetricFacts],
    paired: Paired | None,
    apart: bool,
    tally: Tally,
) -> list[Finding]:
    before, now = (STATUSES.index(values["status"]) for values in (expected, found))
    findings = []
    if now != before:
        kind: Kind = "failed" if now < before else "recovered"
        message = f"status was {STATUSES[before]} in the baseline and is {STATUSES[now]} now"
        findings.append(Finding(kind, row, message))
    if found["status"] == "failed":
        return findings
    if apart:
        tally.apart.append(row)
        return findings
    if not pd.isna(found["images"]) and not pd.isna(expected["images"]) and found["images"] != expected["images"]:
        counts = f"averaged over {int(found['images'])} images, the baseline over {int(expected['images'])}"
        tally.counts[counts].append(row)
    for metric in (*METRICS, *own):
        if pd.isna(expected[metric]):
            if not pd.isna(found.get(metric)) and expected["status"] != "failed":
                tally.empty[metric].append(row)
            continue
        there = metric == "leakage" and not pd.isna(found.get(metric))
        why = _other_leakage(found, expected) if there else ""
        if why:
            tally.leakage[why].append(row)
            continue
        tally.figures += not pd.isna(found.get(metric))
        lower = metric in own and own[metric].closer == "lower"
        worse = 1 if metric in HIGHER_IS_WORSE or (metric in own and not lower) else -1
        finding = _compare_figure(metric, row, found, expected, tolerance.of(metric, own), worse, paired)
        findings += [finding] if finding is not None else []
    return findings


def _other_leakage(found: Values, expected: Values) -> str:
    """Why the leakage of two rows is not the same figure; empty where it is, as far as they say."""
    now, was = _text(found, "leakage_metrics"), _text(expected, "leakage_metrics")
    if now and was and now != was:
        return f"it is made of {now}, in the baseline of {was}"
    if bool(now) != bool(was):
        older = "baseline" if now else "candidate"
        return f"the {older} does not say of what it is made: it is of an older dpbench, with another scale"
    if pd.isna(found["lpips"]) != pd.isna(expected["lpips"]):
        return f"LPIPS is not at hand in the {'candidate' if pd.isna(found['lpips']) else 'baseline'}"
    now, was = _text(found, "ensemble"), _text(expected, "ensemble")
    if now and was and now != was:
        return f"the worst case is over {now}, in the baseline over {was}"
    return ""


def _text(values: Values, column: str) -> str:
    return "" if pd.isna(values[column]) else str(values[column])


def _compare_figure(
    metric: str,
    row: Row,
    found: Values,
    expected: Values,
    allowed: float,
    worse_if: int,
    paired: Paired | None,
) -> Finding | None:
    was, now = expected[metric], found.get(metric)
    if now is None or pd.isna(now):
        kind: Kind = "missing" if needed(metric) else "missing figure"
        return Finding(kind, row, f"{metric} is in the baseline and was not measured")
    low, high = expected[f"{metric}_low"], expected[f"{metric}_high"]
    change = now - was
    if abs(change) <= allowed + ROUNDING:  # boards are rounded: equal to the tolerance is within it
        return None
    by = paired(row, metric) if paired is not None else None
    if by is not None:
        chance = by[0] <= ROUNDING if change > 0 else by[1] >= -ROUNDING
    else:
        chance = (change > 0 and now <= high) or (change < 0 and now >= low)
    if chance:
        return None
    worse = (change > 0) == (worse_if > 0)
    if metric == "accuracy":
        kind = "predicts worse" if worse else "predicts better"
    else:
        kind = "leaks more" if worse else "leaks less"
    interval = "" if pd.isna(low) or pd.isna(high) else f" [{_shown(metric, low)}, {_shown(metric, high)}]"
    pairwise = "" if by is None else f", image by image [{_shown(metric, by[0])}, {_shown(metric, by[1])}]"
    return Finding(kind, row, f"{metric} {_shown(metric, was)}{interval} -> {_shown(metric, now)}{pairwise}")


def _shown(metric: str, value: float) -> str:
    return f"{value:.2f} dB" if metric == "psnr_db" else f"{value:.3f}"
