"""The gate: a board or a run against an accepted one, from their paths to a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console

from dpbench.board.columns import CELLS, Layout, Row
from dpbench.errors import DpbenchError
from dpbench.gate.compare import compare
from dpbench.gate.findings import Tolerance
from dpbench.protocols.boards import read

if TYPE_CHECKING:
    # imported where they are used: a comparison of two CSV files needs no torch, which records bring along
    from dpbench.board.rows import Row as BoardRow
    from dpbench.records.record import Record


def load_board(path: Path) -> tuple[pd.DataFrame, Layout]:
    """A board from a CSV file, or derived from the records of a run directory; and how it names its rows.

    Raises:
        DpbenchError: neither of the two, or it cannot be read.
    """
    if not path.is_dir():
        return read(path)
    from dpbench.protocols.known import of_run

    protocol = of_run(path)
    return protocol.board(protocol.newest(protocol.store.all(path))), protocol.boards.layout


class TwoRuns:
    """Two run directories: what their records say beyond their boards.

    Args:
        candidate: a run directory.
        baseline: another.

    Raises:
        DpbenchError: one of them is none, or holds a record that cannot be read.
    """

    def __init__(self, candidate: Path, baseline: Path) -> None:
        from dpbench.board.leaderboard import build_rows
        from dpbench.records.store import newest_records

        self.records: tuple[list[Record], list[Record]] = newest_records([candidate]), newest_records([baseline])
        self.after, self.before = (
            {CELLS.name_of(vars(row.name)): row for row in build_rows(records)} for records in self.records
        )

    def difference(self, row: Row, column: str) -> tuple[float, float] | None:
        """The interval of candidate minus baseline, image by image; None where they share no image."""
        from dpbench.board.comparisons import difference

        if row not in self.before or row not in self.after:
            return None
        return difference(self.before[row], self.after[row], column)

    def apart(self, row: Row) -> bool:
        """Whether the two measured a row on images of which none is in common."""
        if row not in self.before or row not in self.after:
            return False
        now, was = (_victims(rows[row]) for rows in (self.after, self.before))
        return bool(now and was) and not now & was

    def notes(self) -> list[str]:
        """What a reader of the verdict should know of the two runs; a line each."""
        candidate, baseline = self.records
        return [*_other_machines(candidate, baseline), *_exchanged(candidate, baseline)]


def _victims(row: BoardRow) -> set[str]:
    return {victim for sample in row.samples if sample.figures is not None for victim in sample.figures.victims}


def _other_machines(candidate: list[Record], baseline: list[Record]) -> list[str]:
    from dpbench.machine.environment import ONE_MACHINE, same_machine

    now, was = (_distinct(records) for records in (candidate, baseline))
    if all(same_machine(one, other) for one in now for other in was):
        return []
    pairs = [(name, _said(now, name), _said(was, name)) for name in ONE_MACHINE]
    parts = [f"{name} {one}, in the baseline {other}" for name, one, other in pairs if one != other]
    differing = "; ".join(parts) or "torch is another, or not named"
    return [
        f"measured on other machines ({differing}): figures may differ. Rounding moves the third decimal; networks "
        "that are fitted anew come out otherwise: with one thread and two, SSIM on quick moved by up to 0.033, which "
        "the default tolerances do not cover"
    ]


def _distinct(records: list[Record]) -> list[dict[str, Any]]:
    return list({repr(record.environment): record.environment for record in records}.values())


def _said(environments: list[dict[str, Any]], name: str) -> str:
    return " and ".join(sorted({str(given[name]) for given in environments if name in given})) or "not said"


def _exchanged(candidate: list[Record], baseline: list[Record]) -> list[str]:
    """A line where every record of the candidate is older than all of the baseline."""
    now, was = ([record.created for record in records if record.created] for records in (candidate, baseline))
    if not now or not was or max(now) >= min(was):
        return []
    return ["the candidate was measured before the baseline; are the two exchanged?"]


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
    from dpbench.gate import outputs as check_output

    accepted, layout = load_board(baseline)
    found, other = load_board(candidate)
    if other is not layout:
        raise DpbenchError(f"{candidate} and {baseline} are of two protocols; give two boards or runs of one suite")
    if candidate.is_dir() and baseline.is_dir() and layout is CELLS:
        runs = TwoRuns(candidate, baseline)
        result = compare(found, accepted, tolerance=tolerance, paired=runs.difference, apart=runs.apart)
        result.notes.extend(runs.notes())
    else:
        result = compare(found, accepted, tolerance=tolerance, layout=layout)
    if candidate.resolve() == baseline.resolve():
        result.notes.append("candidate and baseline are the same: nothing can have got worse")
    check_output.print_comparison(result, console)
    if environment.get("GITHUB_ACTIONS"):
        for line in check_output.workflow_commands(result):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    if environment.get("GITHUB_STEP_SUMMARY"):
        check_output.append_summary(result, Path(environment["GITHUB_STEP_SUMMARY"]))
    if junit is not None:
        check_output.write_junit(result, junit)
    return int(any(finding.fails for finding in result.findings))
