"""The gate: a board or a run against an accepted one, from their paths to a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console

from dpbench.board.columns import Layout, Row
from dpbench.errors import DpbenchError
from dpbench.gate.compare import compare
from dpbench.gate.findings import Tolerance
from dpbench.protocols.boards import read
from dpbench.records.archive import is_archive

if TYPE_CHECKING:
    # imported where they are used: a comparison of two CSV files needs no torch, which records bring along
    from dpbench.board.rows import BoardRow
    from dpbench.records.record import Envelope
    from dpbench.running.protocol import Protocol


@dataclass(frozen=True)
class Side:
    """The candidate or the baseline.

    Attributes:
        path: a board's CSV file, or a run directory.
        board: what it holds, or the board of its records.
        layout: how the board names its rows.
        records: of a run directory; empty for a CSV file.
        protocol: of a run directory.
        unfinished: what a run directory has yet to measure, in words.
    """

    path: Path
    board: pd.DataFrame
    layout: Layout
    records: Sequence[Envelope] = ()
    protocol: Protocol[Any, Any] | None = None
    unfinished: str = ""

    @cached_property
    def rows(self) -> Mapping[Row, BoardRow]:
        """Name of a row -> the per-image figures it rests on, where the protocol tells them; empty for a CSV file."""
        return {} if self.protocol is None else self.protocol.rows(self.records)


def load_side(path: Path) -> Side:
    """A board from a CSV file, or derived from the records of a run directory or of a file of records.

    Raises:
        DpbenchError: none of the three, or it cannot be read.
    """
    if not path.is_dir() and not is_archive(path):
        return Side(path, *read(path))
    from dpbench.protocols.doubts import unfinished
    from dpbench.protocols.known import of_run

    protocol = of_run(path)
    records = protocol.store.counted([path], protocol.newest)
    left = unfinished(protocol, path) if path.is_dir() else ""
    return Side(path, protocol.board(records), protocol.boards.layout, records, protocol, left)


@dataclass(frozen=True)
class TwoRuns:
    """Two sides, and what their records say beyond their boards where both are run directories."""

    candidate: Side
    baseline: Side

    @property
    def paired(self) -> bool:
        """Whether images can be compared one by one: both are runs, of a protocol that tells their figures."""
        both = bool(self.candidate.records and self.baseline.records)
        return both and bool(self.candidate.rows and self.baseline.rows)

    def difference(self, row: Row, column: str) -> tuple[float, float] | None:
        """The interval of candidate minus baseline, image by image; None where they share no image."""
        from dpbench.board.comparisons import difference

        if not self._both_have(row):
            return None
        return difference(self.baseline.rows[row], self.candidate.rows[row], column)

    def apart(self, row: Row) -> bool:
        """Whether the two measured a row on images of which none is in common."""
        if not self._both_have(row):
            return False
        now, was = (_victims(side.rows[row]) for side in (self.candidate, self.baseline))
        return bool(now and was) and not now & was

    def _both_have(self, row: Row) -> bool:
        return self.paired and row in self.baseline.rows and row in self.candidate.rows

    def notes(self) -> list[str]:
        """What a reader of the verdict should know of the two runs; a line each."""
        candidate, baseline = self.candidate.records, self.baseline.records
        if not candidate or not baseline:
            return []
        return [*_other_machines(candidate, baseline), *_exchanged(candidate, baseline)]


def _victims(row: BoardRow) -> set[str]:
    return {victim for sample in row.samples if sample.figures is not None for victim in sample.figures.victims}


def _other_machines(candidate: Sequence[Envelope], baseline: Sequence[Envelope]) -> list[str]:
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


def _distinct(records: Sequence[Envelope]) -> list[dict[str, Any]]:
    return list({repr(record.environment): record.environment for record in records}.values())


def _said(environments: list[dict[str, Any]], name: str) -> str:
    return " and ".join(sorted({str(given[name]) for given in environments if name in given})) or "not said"


def _exchanged(candidate: Sequence[Envelope], baseline: Sequence[Envelope]) -> list[str]:
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
    gitlab: Path | None = None,
    as_json: bool = False,
) -> int:
    """Compare and report: 0 when nothing got worse, 1 otherwise; two run directories are compared image by image.

    Args:
        candidate: a board's CSV file or a run directory.
        baseline: the accepted board, likewise.
        tolerance: see `compare`.
        junit: where to write a JUnit file, if anywhere.
        environment: of the process; GITHUB_ACTIONS and GITHUB_STEP_SUMMARY are used.
        console: takes verdict and table.
        gitlab: where to write a code quality report, if anywhere.
        as_json: print JSON, and nothing else, in place of verdict and table.

    Raises:
        DpbenchError: unusable input, or a report that cannot be written.
    """
    from dpbench.gate import outputs as check_output

    accepted, found = load_side(baseline), load_side(candidate)
    if found.layout is not accepted.layout:
        raise DpbenchError(f"{candidate} and {baseline} are of two protocols; give two boards or runs of one suite")
    runs = TwoRuns(found, accepted)
    paired = runs.difference if runs.paired else None
    result = compare(
        found.board, accepted.board, tolerance=tolerance, paired=paired, apart=runs.apart, layout=found.layout
    )
    result.notes.extend(runs.notes())
    if candidate.resolve() == baseline.resolve():
        result.notes.append("candidate and baseline are the same: nothing can have got worse")
    if as_json:
        print(check_output.as_json(result))
    else:
        check_output.print_comparison(result, console)
    if environment.get("GITHUB_ACTIONS") and not as_json:
        for line in check_output.workflow_commands(result):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    if environment.get("GITHUB_STEP_SUMMARY"):
        check_output.append_summary(result, Path(environment["GITHUB_STEP_SUMMARY"]))
    if junit is not None:
        check_output.write_junit(result, junit)
    if gitlab is not None:
        check_output.write_gitlab(result, gitlab, about=_in_repository(baseline))
    return int(not result.passed)


def _in_repository(path: Path) -> str:
    """A path as GitLab names files: from the folder of the job, with slashes; else as it is given."""
    full, here = path.resolve(), Path.cwd().resolve()
    return (full.relative_to(here) if full.is_relative_to(here) else path).as_posix()
