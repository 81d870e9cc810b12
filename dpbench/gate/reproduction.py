"""`dpbench reproduce`: one row of a published board, measured again, beside the interval that it was published with."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from dpbench.board.columns import DECIMALS, Row, own_metrics
from dpbench.contract.attack import Attack
from dpbench.contract.defense import Defense
from dpbench.contract.plugin import Plugin
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError
from dpbench.machine.environment import same_machine
from dpbench.plugins.configuring import attack_of, defense_of
from dpbench.plugins.registry import find
from dpbench.plugins.sources import source_of
from dpbench.protocols.boards import read
from dpbench.protocols.known import AnyProtocol, of_run
from dpbench.records.archive import ENDING, is_archive
from dpbench.records.record import Envelope
from dpbench.records.record_files import readable
from dpbench.running.protocol import Plan
from dpbench.suite import preflight
from dpbench.suite.words import built_in
from dpbench.text.shown_text import clean

RECOGNISED = ("reid_top1", "identity_top1", "link_top1", "label_read")

COMPARED = ("accuracy", "gain", "ssim", "psnr_db", "lpips", *RECOGNISED, "leakage")
"""Columns that are compared, where a row has them with an interval; metrics of a board's own come after them."""

SORTS: Mapping[Any, tuple[str, type[Plugin]]] = {defense_of: ("defense", Defense), attack_of: ("attack", Attack)}
"""What makes a plug-in of a unit -> its sort and base class."""


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
        plan: the units that it is made of.
        records: all of the board.
    """

    name: str
    row: Row
    plan: Plan[Any, Any]
    records: Sequence[Envelope]

    def compared(self, measured: Sequence[Envelope]) -> Reproduced:
        """The row with these in place of the published records of the same cells, beside what was published."""
        protocol = self.plan.protocol
        was = protocol.columns_of(self.records, self.row)
        others = [record for record in self.records if record.id not in {one.id for one in measured}]
        now = protocol.columns_of(protocol.newest([*others, *measured]), self.row)
        result = Reproduced(self.name, _figures(was, now), protocol.unit)
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
        unit: what people call what was measured.
        failed: units that could not be measured, and why.
        notes: what else there is to know, a line each.
    """

    name: str
    figures: list[Figure]
    unit: str = "cell"
    failed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every unit was measured, and every figure lies in its interval."""
        return not self.failed and bool(self.figures) and all(figure.inside for figure in self.figures)

    @property
    def verdict(self) -> str:
        """The outcome in one line."""
        if self.failed:
            count = len(self.failed)
            return f"not reproduced: {self.name}: {count} {self.unit}{'s' if count > 1 else ''} failed"
        inside = sum(figure.inside for figure in self.figures)
        said = f"{self.name}: {inside} of {len(self.figures)} figures within their published intervals"
        return f"reproduced: {said}" if self.holds else f"not reproduced: {said}"


def _figures(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[Figure]:
    found = []
    for column in dict.fromkeys((*COMPARED, *own_metrics(pd.DataFrame([was])))):
        mean, low, high = (was.get(f"{column}{end}", math.nan) for end in ("", "_low", "_high"))
        if not math.isnan(mean) and not math.isnan(low):
            found.append(Figure(column, mean, low, high, now.get(column, math.nan)))
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
        row: its number on the board, from 1, or the id of a cell or another unit.
        data: where the images lie now.
        shifted: likewise the attacker's, of another data set.
        output: the run directory; by default `dpbench-runs/NAME-ROW`. What is finished in it is not measured again.

    Raises:
        DpbenchError: no records, no such row, other images than were measured, or plug-ins that have changed since.
    """
    source = records_of(board)
    protocol = of_run(source)
    records = protocol.store.counted([source], protocol.newest)
    members = protocol.members(records)
    if not members:
        raise DpbenchError(f"{board}: rows of the protocol {protocol.name!r} are not measured alone; run the suite")
    table = read(board)[0] if board.suffix == ".csv" else protocol.board(records)
    name, headline = _named(table, row, members, protocol, board)
    known = {record.id: record for record in records}
    wanted = list(dict.fromkeys(members[name]))
    if not wanted:
        raise DpbenchError(f"--row {row}: {protocol.boards.layout.said(name)} rests on no record; choose another row")
    needed = {other for one in wanted for other in protocol.ties(known[one].unit_measured).after if other in known}
    places = _Places(protocol, data, shifted)
    moved = {one: places.moved(known[one].unit_measured) for one in dict.fromkeys((*wanted, *needed))}
    for identity, unit in moved.items():
        _refuse_changed(protocol, unit, known[identity])
    place = Path("dpbench-runs") / f"{source.name.removesuffix(ENDING)}-{row}" if output is None else output
    paths = (protocol.store.path(place, one) for one in wanted)
    finished = {one.id: one for one in readable(paths, protocol.store.read) if one.status == "ok"}
    asked = _Asked(records[0].suite, headline)
    units = [moved[one] for one in wanted]
    plan = Plan(asked, units, protocol=protocol, finished=finished, output=place, everything=moved)
    return Again(protocol.boards.layout.said(name), name, plan, records)


@dataclass(frozen=True)
class _Asked:
    """What of a suite its cells do not say."""

    name: str
    headline: str


def _named(
    table: pd.DataFrame, row: str, members: Mapping[Row, Sequence[str]], protocol: AnyProtocol, board: Path
) -> tuple[Row, str]:
    """The name of a row of the board, by its number or the id of a unit; and what its suite is about."""
    values = table.to_dict("records")
    names = [protocol.boards.layout.name_of({str(key): one[key] for key in one}) for one in values]
    cells = [str(one.get("cell", "")) for one in values]
    if row.isdecimal():
        if not 1 <= int(row) <= len(values):
            raise DpbenchError(f"--row {row}: {board} has the rows 1 to {len(values)}")
        chosen = int(row) - 1
    elif row in cells:
        chosen = cells.index(row)
    else:
        found = [at for at, name in enumerate(names) if row in members.get(name, ())]
        if "cell" in table or not found:
            known = {*filter(None, cells), *(one for ids in members.values() for one in ids)}
            near = difflib.get_close_matches(row, known, n=1)
            raise DpbenchError(
                f"--row {row}: expected a number from 1 to {len(values)}, or the id of a {protocol.unit} on the board"
                + (f", such as {near[0]}" if near else "")
            )
        chosen = found[0]
    name = names[chosen]
    if name not in members:
        raise DpbenchError(
            f"--row {row}: {protocol.boards.layout.said(name)} does not come out of the records of {board}; it was "
            "edited, or set there by others"
        )
    return name, str(values[chosen].get("headline") or "leakage")


class _Places:
    """Where the images of a board lie now.

    Args:
        protocol: of its records.
        data: the images, if elsewhere than their records say.
        shifted: likewise the attacker's, of another data set.
    """

    def __init__(self, protocol: AnyProtocol, data: str | None, shifted: str | None) -> None:
        self._protocol = protocol
        self._given = {"dataset": ("--data", data), "shifted": ("--shifted", shifted)}
        self._known: dict[str, tuple[DatasetSpec, str]] = {}

    def moved(self, unit: Any) -> Any:
        """The unit with its images where they lie now.

        Raises:
            DpbenchError: they are not there, or others.
        """
        places = {}
        for role, (dataset, expected) in self._protocol.data(unit).items():
            key = f"{role} {dataset.model_dump_json()}"
            if key not in self._known:
                option, place = self._given[role]
                there = dataset if place is None else dataset.model_copy(update={"name": place})
                self._known[key] = there, _fingerprint(there, place, option)
            places[role], found = self._known[key]
            if found != expected:
                raise DpbenchError(
                    f"{places[role].name}: these are other images than the row was measured on ({found[:8]}, not "
                    f"{expected[:8]}); give the same with {self._given[role][0]} FOLDER"
                )
        return self._protocol.moved(unit, places)


def _fingerprint(dataset: DatasetSpec, place: str | None, option: str) -> str:
    try:
        return preflight.data_fingerprint(dataset, hint="")
    except DpbenchError as error:
        if place is not None:
            raise
        raise DpbenchError(f"{error}. The row was measured on it; say where it lies with {option} FOLDER") from error


def _refuse_changed(protocol: AnyProtocol, unit: Any, record: Envelope) -> None:
    """An error where a plug-in, or how its protocol measures, is not what it was: the row would be another."""
    for make, spec in protocol.plugins(unit):
        if make not in SORTS:
            make(spec)
            continue
        sort, base = SORTS[make]
        now = source_of(built_in(base)[spec.name] if spec.name in built_in(base) else find(sort, spec.name))
        if now != spec.source:
            version = re.sub("^v", "", now).partition("-")[0]
            raise DpbenchError(
                f"{sort} {spec.name!r} is not what the row was measured with ({spec.source}; here it is {now}, version "
                f"{version}); use the dpbench and the plug-in of then"
            )
    if record.status == "ok" and not protocol.is_finished(record, unit, audit=False):
        raise DpbenchError(
            f"{clean(record.named.label)} was measured by another recipe than this dpbench has; use the dpbench of then"
        )
