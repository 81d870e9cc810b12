"""`dpbench reproduce`: one row of a published board, measured again, beside the interval that it was published with."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpbench.board.columns import DECIMALS, Row
from dpbench.board.rows import BoardRow
from dpbench.contract.attack import Attack
from dpbench.contract.defense import Defense
from dpbench.contract.plugin import Plugin
from dpbench.contract.spec import PluginSpec
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError, unknown
from dpbench.machine.environment import same_machine
from dpbench.plugins.registry import find, source_of
from dpbench.protocols.boards import read
from dpbench.protocols.known import AnyProtocol, of_run
from dpbench.records.archive import ENDING, is_archive
from dpbench.records.record import Record
from dpbench.records.record_files import readable
from dpbench.running.protocol import Plan
from dpbench.suite import preflight
from dpbench.suite.cell import CellSpec
from dpbench.suite.words import built_in

COMPARED = ("accuracy", "ssim", "psnr_db", "lpips", "reid_top1", "identity_top1", "link_top1", "label_read", "leakage")


@dataclass(frozen=True)
class Figure:
    """A figure as it was published, with its 95% interval, and as it came out again; NaN where there is none."""

    column: str
    was: float
    low: float
    high: float
    now: float

    @property
    def inside(self) -> bool:
        """Whether it came out within the interval, as far as the decimals of a board say."""
        rounding = 0.5 * 10.0 ** -DECIMALS.get(self.column, 4)
        return self.low - rounding <= self.now <= self.high + rounding


@dataclass
class Again:
    """A row that is to be measured again.

    Attributes:
        name: the row in words.
        row: its key on the board.
        plan: the cells that it is made of.
        records: all of the board.
    """

    name: str
    row: Row
    plan: Plan[Any, Any]
    records: Sequence[Record]

    def compared(self, measured: Sequence[Record]) -> Reproduced:
        """The row with these in place of the published records of the same cells, beside what was published."""
        protocol = self.plan.protocol
        was = protocol.rows(self.records)[self.row]
        others = [record for record in self.records if record.id not in {one.id for one in measured}]
        now = protocol.rows([*others, *measured]).get(self.row)
        result = Reproduced(self.name, _figures(was, now))
        result.failed = [f"{one.named.label}: {one.error}" for one in measured if one.status != "ok"]
        before = {record.id: record.environment for record in self.records}
        if not all(same_machine(before[one.id], one.environment) for one in measured):
            result.notes.append("measured on another machine, or with another torch: networks are fitted otherwise")
        return result


@dataclass
class Reproduced:
    """What came out.

    Attributes:
        name: the row in words.
        figures: those that were published with an interval.
        failed: cells that could not be measured, and why.
        notes: what else there is to know, a line each.
    """

    name: str
    figures: list[Figure]
    failed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every cell was measured, and every figure lies in its interval."""
        return not self.failed and bool(self.figures) and all(figure.inside for figure in self.figures)

    @property
    def verdict(self) -> str:
        """The outcome in one line."""
        if self.failed:
            return f"not reproduced: {self.name}: {len(self.failed)} cells failed"
        inside = sum(figure.inside for figure in self.figures)
        said = f"{self.name}: {inside} of {len(self.figures)} figures within their published intervals"
        return f"reproduced: {said}" if self.holds else f"not reproduced: {said}"


def _figures(was: BoardRow, now: BoardRow | None) -> list[Figure]:
    before, after = was.columns(), {} if now is None else now.columns()
    own = [facts for sample in was.samples if sample.figures for facts in sample.figures.metrics]
    found = []
    for column in dict.fromkeys((*COMPARED, *(facts.name for facts in own))):
        mean, low, high = (before.get(f"{column}{end}", math.nan) for end in ("", "_low", "_high"))
        if not math.isnan(mean) and not math.isnan(low):
            found.append(Figure(column, mean, low, high, after.get(column, math.nan)))
    return found


def records_of(board: Path) -> Path:
    """Where the records of a board are: of a CSV file beside it, in `records/NAME.jsonl.xz` or in its run directory.

    Raises:
        DpbenchError: there are none.
    """
    if board.is_dir() or is_archive(board):
        return board
    packed = board.parent / "records" / f"{board.stem}{ENDING}"
    if packed.is_file():
        return packed
    if board.name == "board.csv" and (board.parent / "records").is_dir():
        return board.parent
    raise DpbenchError(
        f"{board}: there are no records of it ({packed} is not there); give a run directory, a file of records "
        f"({ENDING}), or a board that has them"
    )


def row_again(
    board: Path, row: str, *, data: str | None = None, shifted: str | None = None, output: Path | None = None
) -> Again:
    """What it takes to measure a row of a board again.

    Args:
        board: a CSV file with its records beside it, a file of records, or a run directory.
        row: its number on the board, from 1, or the id of a cell.
        data: where the images lie now.
        shifted: likewise the attacker's, of another data set.
        output: the run directory; by default `dpbench-runs/NAME-ROW`. What is finished in it is not measured again.

    Raises:
        DpbenchError: no records, no such row, other images than were measured, or plug-ins that have changed since.
    """
    source = records_of(board)
    protocol = of_run(source)
    records = protocol.store.counted([source], protocol.newest)
    rows = protocol.rows(records)
    if not rows:
        raise DpbenchError(f"{board}: rows of the protocol {protocol.name!r} are not measured alone; run the suite")
    table = read(board)[0] if board.suffix == ".csv" else protocol.board(records)
    name = _named(table, row, rows, protocol, board)
    cells = {record.id: record.cell for record in records}
    wanted = rows[name].members
    needed = {other for one in wanted for other in cells[one].combined}
    moved = {one: _moved(cells[one], data, shifted) for one in dict.fromkeys((*wanted, *needed)) if one in cells}
    for cell in moved.values():
        _refuse_changed(cell)
    units = [moved[one] for one in dict.fromkeys(wanted)]
    place = Path("dpbench-runs") / f"{source.name.removesuffix(ENDING)}-{row}" if output is None else output
    paths = (protocol.store.path(place, unit.id) for unit in units)
    finished = {one.id: one for one in readable(paths, protocol.store.read) if one.status == "ok"}
    asked = _Asked(records[0].suite, rows[name].facts["headline"] or "leakage")
    plan = Plan(asked, units, protocol=protocol, finished=finished, output=place, everything=moved)
    return Again(protocol.boards.layout.said(name), name, plan, records)


@dataclass(frozen=True)
class _Asked:
    """What of a suite its cells do not say."""

    name: str
    headline: str


def _named(table: Any, row: str, rows: Mapping[Row, BoardRow], protocol: AnyProtocol, board: Path) -> Row:
    values = table.to_dict("records")
    if row.isdecimal():
        if not 1 <= int(row) <= len(values):
            raise DpbenchError(f"--row {row}: {board} has the rows 1 to {len(values)}")
        chosen = values[int(row) - 1]
    else:
        chosen = next((one for one in values if one["cell"] == row), None)
        if chosen is None:
            raise unknown("row", row, [one["cell"] for one in values if one["cell"]])
    name = protocol.boards.layout.name_of(chosen)
    if name not in rows:
        raise DpbenchError(
            f"--row {row}: {protocol.boards.layout.said(name)} does not come out of the records of {board}; it was "
            "edited, or set there by others"
        )
    return name


def _moved(cell: CellSpec, data: str | None, shifted: str | None) -> CellSpec:
    """The cell with its images where they lie now.

    Raises:
        DpbenchError: they are not there, or others.
    """
    changes: dict[str, Any] = {"dataset": _found(cell.dataset, cell.data_fingerprint, data, "--data")}
    if cell.shifted is not None:
        changes["shifted"] = _found(cell.shifted, cell.shifted_fingerprint, shifted, "--shifted")
    return cell.model_copy(update=changes)


def _found(dataset: DatasetSpec, expected: str, place: str | None, option: str) -> DatasetSpec:
    there = dataset if place is None else dataset.model_copy(update={"name": place})
    try:
        fingerprint = preflight.data_fingerprint(there, hint="")
    except DpbenchError as error:
        if place is not None:
            raise
        raise DpbenchError(f"{error}. The row was measured on it; say where it lies with {option} FOLDER") from error
    if fingerprint != expected:
        raise DpbenchError(
            f"{there.name}: these are other images than the row was measured on ({fingerprint[:8]}, not "
            f"{expected[:8]}); give the same with {option} FOLDER"
        )
    return there


def _refuse_changed(cell: CellSpec) -> None:
    """An error where a built-in attack or defense is not what it was: the row would be another cell."""
    both: tuple[tuple[str, type[Plugin], PluginSpec], ...] = (
        ("defense", Defense, cell.defense),
        ("attack", Attack, cell.attack),
    )
    for sort, base, spec in both:
        now = source_of(built_in(base)[spec.name] if spec.name in built_in(base) else find(sort, spec.name))
        if now != spec.source:
            version = re.sub("^v", "", now).partition("-")[0]
            raise DpbenchError(
                f"{sort} {spec.name!r} is not what the row was measured with ({spec.source}; here it is {now}, version "
                f"{version}); use the dpbench and the plug-in of then"
            )
