"""The gate: a board against an accepted baseline. What leaks more, predicts worse, is missing or failed?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from dpbench.board_files import KEY, WHERE_ASKED
from dpbench.board_reading import read_board
from dpbench.errors import DpbenchError

Metric = Literal["ssim", "psnr_db", "lpips", "leakage", "reid_top1", "identity_top1", "accuracy"]
METRICS: tuple[Metric, ...] = get_args(Metric)

HIGHER_IS_WORSE = ("ssim", "psnr_db", "leakage", "reid_top1", "identity_top1")

OPTIONAL = ("lpips", "leakage", "reid_top1", "identity_top1")
"""Need weights that a machine may not have, or a scale: a figure that is gone is said, but does not fail the gate."""

READ = (*KEY, "status", "images", *(f"{m}{end}" for m in METRICS for end in ("", "_low", "_high")))
"""Columns that the gate reads; the others of a board may change."""

NEEDED = tuple(column for column in READ if column not in WHERE_ASKED)

STATUSES = ("failed", "unreliable", "incomplete", "ok")
"""Worst first."""

ROUNDING = 1e-9

Paired = Callable[[tuple[str, ...], str], tuple[float, float] | None]
"""Row and column -> 95% interval of candidate minus baseline, image by image; None where they share no image."""

Kind = Literal[
    "missing",
    "failed",
    "leaks more",
    "predicts worse",
    "missing figure",
    "other images",
    "leaks less",
    "predicts better",
    "recovered",
    "new",
]
FAILING: tuple[Kind, ...] = ("missing", "failed", "leaks more", "predicts worse")
WARNING: tuple[Kind, ...] = ("missing figure", "other images")


class Tolerance(BaseModel):
    """How much worse a figure may be. A finding must also be more than chance, see `compare`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ssim: float = Field(0.02, ge=0)
    psnr_db: float = Field(0.5, ge=0, description="dB")
    lpips: float = Field(0.02, ge=0)
    leakage: float = Field(0.05, ge=0)
    reid_top1: float = Field(0.05, ge=0, description="0.05 is five percentage points")
    identity_top1: float = Field(0.05, ge=0, description="likewise")
    accuracy: float = Field(0.01, ge=0, description="0.01 is one percentage point")


@dataclass(frozen=True)
class Finding:
    """One difference between candidate and baseline."""

    kind: Kind
    row: tuple[str, ...]
    message: str

    @property
    def fails(self) -> bool:
        """Whether it makes the gate fail; the others are information."""
        return self.kind in FAILING

    @property
    def level(self) -> Literal["error", "warning", "notice"]:
        """How loud to say it."""
        return "error" if self.fails else "warning" if self.kind in WARNING else "notice"

    @property
    def name(self) -> str:
        """The row in words."""
        return row_name(self.row)


def row_name(row: tuple[str, ...]) -> str:
    """`leaves resnet10t layer1 | gaussian noise_std=1.0 | worst-case (weights shifted releases=4, seed 0)`."""
    dataset, backbone, split_point, defense, arguments, attack, threat_model, auxiliary, releases, budget, seed = row
    setting = f"{defense} {arguments}".strip()
    granted = [threat_model, *(["shifted"] if auxiliary == "shifted" else [])]
    granted += [f"releases={releases}"] if releases != "1" else []
    granted += [budget] if budget != "standard" else []
    return f"{dataset} {backbone} {split_point} | {setting} | {attack} ({' '.join(granted)}, seed {seed})"


def compare(
    candidate: pd.DataFrame, baseline: pd.DataFrame, *, tolerance: Tolerance, paired: Paired | None = None
) -> list[Finding]:
    """What differs, what fails the gate first.

    Args:
        candidate: the board under test.
        baseline: the accepted board.
        tolerance: a figure is worse when it is so by more than this, and by more than chance: `paired` excludes 0, or
            without it the figure is outside the interval of the baseline.
        paired: of the records of both, where they are at hand.

    Raises:
        DpbenchError: a board is empty, lacks columns, or has two rows of the same name.
    """
    found = _rows(candidate, "candidate")
    findings: list[Finding] = []
    accepted = _rows(baseline, "baseline")
    for row, expected in accepted.items():
        if row not in found:
            findings.append(Finding("missing", row, "in the baseline, but not in the candidate"))
        else:
            findings += _compare_row(row, found[row], expected, tolerance, paired)
    findings += [
        Finding("new", row, f"not in the baseline; status {found[row]['status']}")
        for row in found
        if row not in accepted
    ]
    return sorted(findings, key=lambda finding: get_args(Kind).index(finding.kind))


def _rows(board: pd.DataFrame, role: str) -> dict[tuple[str, ...], dict[str, Any]]:
    missing = [column for column in NEEDED if column not in board.columns]
    if missing:
        raise DpbenchError(
            f"the {role} lacks the columns {', '.join(missing)}; write it again with "
            "`dpbench leaderboard DIR --output FILE.csv`"
        )
    if "origin" in board.columns:
        board = board[board["origin"] != "claimed"]  # nobody measured these here
    if board.empty:
        raise DpbenchError(f"the {role} has no rows; a gate that compares nothing would always pass")
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for values in board.reindex(columns=list(READ)).to_dict("records"):
        row = tuple(str(values[column]) for column in KEY)
        if row in rows:
            raise DpbenchError(f"the {role} has two rows named {row_name(row)}; keep one of them")
        if values["status"] not in STATUSES:
            raise DpbenchError(
                f"the {role} says status {values['status']!r} for {row_name(row)}; "
                f"expected one of {', '.join(STATUSES)}"
            )
        rows[row] = {str(column): value for column, value in values.items()}
    return rows


def _compare_row(
    row: tuple[str, ...],
    found: dict[str, Any],
    expected: dict[str, Any],
    tolerance: Tolerance,
    paired: Paired | None,
) -> list[Finding]:
    before, now = (STATUSES.index(values["status"]) for values in (expected, found))
    findings = []
    if now < before:
        was, is_ = STATUSES[before], STATUSES[now]
        findings.append(Finding("failed", row, f"status was {was} in the baseline and is {is_} now"))
    elif now > before:
        was, is_ = STATUSES[before], STATUSES[now]
        findings.append(Finding("recovered", row, f"status was {was} in the baseline and is {is_} now"))
    if found["status"] == "failed":
        return findings
    both = not pd.isna(found["images"]) and not pd.isna(expected["images"])
    if both and int(found["images"]) != int(expected["images"]):
        counts = f"{int(found['images'])} images, the baseline over {int(expected['images'])}"
        findings.append(Finding("other images", row, f"averaged over {counts}"))
    for metric in METRICS:
        if metric == "leakage" and pd.isna(found["lpips"]) != pd.isna(expected["lpips"]):
            continue  # made of other metrics: not the same figure
        finding = _compare_figure(metric, row, found, expected, getattr(tolerance, metric), paired)
        findings += [finding] if finding is not None else []
    return findings


def _compare_figure(
    metric: Metric,
    row: tuple[str, ...],
    found: dict[str, Any],
    expected: dict[str, Any],
    allowed: float,
    paired: Paired | None,
) -> Finding | None:
    was, now = expected[metric], found[metric]
    if pd.isna(was):
        return None
    if pd.isna(now):
        kind: Kind = "missing figure" if metric in OPTIONAL else "missing"
        return Finding(kind, row, f"{metric} is {_shown(metric, was)} in the baseline and was not measured")
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
    worse = (change > 0) == (metric in HIGHER_IS_WORSE)
    if metric == "accuracy":
        kind = "predicts worse" if worse else "predicts better"
    else:
        kind = "leaks more" if worse else "leaks less"
    interval = "" if pd.isna(low) or pd.isna(high) else f" [{_shown(metric, low)}, {_shown(metric, high)}]"
    pairwise = "" if by is None else f", image by image [{_shown(metric, by[0])}, {_shown(metric, by[1])}]"
    return Finding(kind, row, f"{metric} {_shown(metric, was)}{interval} -> {_shown(metric, now)}{pairwise}")


def _shown(metric: str, value: float) -> str:
    return f"{value:.2f} dB" if metric == "psnr_db" else f"{value:.3f}"


def load_board(path: Path) -> pd.DataFrame:
    """A board from a CSV file, or derived from the records of a run directory.

    Raises:
        DpbenchError: neither of the two, or it cannot be read.
    """
    if not path.is_dir():
        return read_board(path)
    # imported here: a comparison of two CSV files needs no torch, which records bring along
    from dpbench.leaderboard import build_board
    from dpbench.store import newest_records

    return build_board(newest_records([path]))


def _refuse_sharing(directory: Path) -> None:
    from dpbench.sharing.records import is_sharing_run  # it brings torch, as in `load_board`

    if is_sharing_run(directory):
        raise DpbenchError(
            f"{directory} is a run of the protocol 'sharing'; the gate compares runs and boards of the protocol "
            "'inference': check the defense there, with the same split point"
        )


def paired_records(candidate: Path, baseline: Path) -> Paired:
    """Comparisons image by image of two run directories.

    Raises:
        DpbenchError: one of them is none, or holds a record that cannot be read.
    """
    from dpbench.comparisons import difference
    from dpbench.leaderboard import build_rows
    from dpbench.store import newest_records

    before, after = (
        {tuple(str(getattr(row.name, column)) for column in KEY): row for row in build_rows(newest_records([path]))}
        for path in (baseline, candidate)
    )
    return lambda row, column: difference(before[row], after[row], column) if row in before and row in after else None


def run_check(
    candidate: Path,
    baseline: Path,
    *,
    tolerance: Tolerance,
    junit: Path | None,
    environment: Mapping[str, str],
    console: Console,
) -> int:
    """Compare and report: 0 when nothing got worse, 1 otherwise; two run directories are compared image by image.

    Args:
        candidate: a board's CSV file or a run directory.
        baseline: the accepted board, likewise.
        tolerance: see `compare`.
        junit: where to write a JUnit file, if anywhere.
        environment: of the process; GITHUB_ACTIONS and GITHUB_STEP_SUMMARY are used.
        console: takes the table.

    Raises:
        DpbenchError: unusable input, or a report that cannot be written.
    """
    from dpbench import check_output

    for given in (candidate, baseline):
        if given.is_dir():
            _refuse_sharing(given)
    accepted = load_board(baseline)
    found = load_board(candidate)
    paired = paired_records(candidate, baseline) if candidate.is_dir() and baseline.is_dir() else None
    findings = compare(found, accepted, tolerance=tolerance, paired=paired)
    rows = list(_rows(accepted, "baseline"))
    check_output.print_findings(findings, len(rows), console)
    if environment.get("GITHUB_ACTIONS"):
        for line in check_output.workflow_commands(findings):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    if environment.get("GITHUB_STEP_SUMMARY"):
        check_output.append_summary(findings, len(rows), Path(environment["GITHUB_STEP_SUMMARY"]))
    if junit is not None:
        check_output.write_junit(findings, rows, junit)
    return int(any(finding.fails for finding in findings))
