"""The gate: a board against an accepted baseline. What leaks more, predicts worse, is missing or failed?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from dpbench.board_files import KEY, read_board
from dpbench.errors import DpbenchError

Metric = Literal["ssim", "psnr_db", "lpips", "accuracy"]
METRICS: tuple[Metric, ...] = get_args(Metric)

HIGHER_IS_WORSE = ("ssim", "psnr_db")

OPTIONAL = ("lpips",)
"""Needs weights that a machine may not have: a figure that is gone is said, but does not fail the gate."""

NEEDED = (*KEY, "status", "images", *(f"{m}{end}" for m in METRICS for end in ("", "_low", "_high")))
"""Columns that the gate reads; the others of a board may change."""

STATUSES = ("failed", "incomplete", "ok")

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
    """How much worse a figure may be. A finding must also lie outside the baseline's interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ssim: float = Field(0.02, ge=0)
    psnr_db: float = Field(0.5, ge=0, description="dB")
    lpips: float = Field(0.02, ge=0)
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
    """`leaves resnet10t layer1 | gaussian noise_std=1.0 | worst-case (weights, seed 0)`."""
    dataset, backbone, split_point, defense, arguments, attack, threat_model, seed = row
    setting = f"{defense} {arguments}".strip()
    return f"{dataset} {backbone} {split_point} | {setting} | {attack} ({threat_model}, seed {seed})"


def compare(candidate: pd.DataFrame, baseline: pd.DataFrame, *, tolerance: Tolerance) -> list[Finding]:
    """What differs, what fails the gate first.

    Args:
        candidate: the board under test.
        baseline: the accepted board.
        tolerance: a figure is worse when it is so by more than this and outside the interval of the baseline.

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
            findings += _compare_row(row, found[row], expected, tolerance)
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
    if board.empty:
        raise DpbenchError(f"the {role} has no rows; a gate that compares nothing would always pass")
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for values in board[list(NEEDED)].to_dict("records"):
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
    row: tuple[str, ...], found: dict[str, Any], expected: dict[str, Any], tolerance: Tolerance
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
        finding = _compare_figure(metric, row, found, expected, getattr(tolerance, metric))
        findings += [finding] if finding is not None else []
    return findings


def _compare_figure(
    metric: Metric, row: tuple[str, ...], found: dict[str, Any], expected: dict[str, Any], allowed: float
) -> Finding | None:
    was, now = expected[metric], found[metric]
    if pd.isna(was):
        return None
    if pd.isna(now):
        kind: Kind = "missing figure" if metric in OPTIONAL else "missing"
        return Finding(kind, row, f"{metric} is {_shown(metric, was)} in the baseline and was not measured")
    low, high = expected[f"{metric}_low"], expected[f"{metric}_high"]
    change = now - was
    if abs(change) <= allowed + 1e-9:  # boards are rounded: equal to the tolerance is within it
        return None
    if (change > 0 and now <= high) or (change < 0 and now >= low):
        return None
    worse = (change > 0) == (metric in HIGHER_IS_WORSE)
    if metric == "accuracy":
        kind = "predicts worse" if worse else "predicts better"
    else:
        kind = "leaks more" if worse else "leaks less"
    interval = "" if pd.isna(low) or pd.isna(high) else f" [{_shown(metric, low)}, {_shown(metric, high)}]"
    return Finding(kind, row, f"{metric} {_shown(metric, was)}{interval} -> {_shown(metric, now)}")


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


def run_check(
    candidate: Path,
    baseline: Path,
    *,
    tolerance: Tolerance,
    junit: Path | None,
    environment: Mapping[str, str],
    console: Console,
) -> int:
    """Compare and report: 0 when nothing got worse, 1 otherwise.

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

    accepted = load_board(baseline)
    findings = compare(load_board(candidate), accepted, tolerance=tolerance)
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
