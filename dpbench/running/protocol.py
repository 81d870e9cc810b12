"""What a protocol is: which units a suite consists of, how one is measured, and what is shown of the records.

One plan, one runner, one display and one set of verbs serve every protocol.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpbench.board.columns import BoardKind, Row
from dpbench.board.rows import BoardRow
from dpbench.contract.plugin import Plugin
from dpbench.contract.spec import PluginSpec, Spec
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError
from dpbench.executors.graph import Ties
from dpbench.executors.stages import Stages
from dpbench.machine.writing import write_atomically
from dpbench.plugins.applicable import Place
from dpbench.records.record import Envelope
from dpbench.records.store import Store
from dpbench.running.options import Options
from dpbench.running.unit import Progress, Shareable, U
from dpbench.running.yardstick import Yardstick
from dpbench.suite.words import ssim_text
from dpbench.text.shown_text import clean
from dpbench.text.tables import csv_text

R = TypeVar("R", bound=Envelope)


@dataclass(frozen=True)
class Planned(Generic[U]):
    """A suite made concrete.

    Attributes:
        suite: with data, seed and plug-ins as they were overridden.
        units: in running order.
        remarks: what was left out of the data, or read in one of several ways; a line each.
    """

    suite: Any
    units: list[U]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan(Planned[U], Generic[U, R]):
    """What of a suite is to run, where records go, and which are there already.

    Attributes:
        protocol: whose suite it is.
        finished: id of a unit -> its record, for those that are there and ok.
        output: the run directory.
        changed: in words, why units that were finished are not: see `dpbench.running.changes`.
        everything: id -> unit of the whole suite, whatever `only` keeps.
    """

    protocol: Protocol[U, R] = field(kw_only=True)
    finished: Mapping[str, R] = field(kw_only=True)
    output: Path = field(kw_only=True)
    changed: tuple[str, ...] = ()
    everything: Mapping[str, U] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the suite."""
        return str(self.suite.name)

    @functools.cached_property
    def left(self) -> list[U]:
        """The units that are not finished."""
        return [unit for unit in self.units if unit.id not in self.finished]


class Lab(abc.ABC, Generic[U]):
    """Measures units, one after another, on one device; keeps what they share."""

    device: torch.device = torch.device("cpu")

    def enter(self, unit: U, progress: Progress) -> None:
        """Get ready for a unit: its data. An error here stops the run, since no unit could go on."""
        return

    def fetch(self, unit: U, progress: Progress) -> None:
        """Have at hand what comes from elsewhere: images and weights; fit nothing."""
        self.enter(unit, progress)

    def describe(self, unit: U, plan: Plan[U, Any]) -> dict[str, Any]:
        """Fields of its record that hold whether or not it can be measured."""
        return {}

    def make(self, unit: U, name: str, progress: Progress) -> None:
        """Make something that the unit shares with others, see `Need`, so that it lies in the cache."""
        return

    @abc.abstractmethod
    def measure(self, unit: U, plan: Plan[U, Any], stages: Stages, progress: Progress) -> dict[str, Any]:
        """Fields of its record that say what came out. Any exception makes it a failed unit; the others go on."""

    def spent(self, stages: Stages) -> dict[str, Any]:
        """Fields of its record that say what it took."""
        return {"seconds": stages.seconds}


class Protocol(abc.ABC, Generic[U, R]):
    """A protocol: what is asked of defenses, in units that each have a record.

    `plan`, `lab` and `board` make one; everything else has a default.

    Attributes:
        name: what a suite file calls it: `protocol = "NAME"`.
        unit: what people call a unit: `cell`.
        picture_of: and one that has a picture.
        suite: the content of a suite file.
        store: where its records lie.
        boards: how its boards name their rows and are read, for the gate.
        yardstick: what its boards are set against; None: rows of two runs do not stand together.
        plots: what a `.png` of `dpbench leaderboard` may show, the first by default.
        tables: those of them that are written as a table too.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = "part"
    picture_of: ClassVar[str] = "attack"
    suite: ClassVar[type[Spec]]
    store: ClassVar[Store[Any]]
    boards: ClassVar[BoardKind]
    yardstick: ClassVar[Yardstick | None] = None
    plots: ClassVar[tuple[str, ...]] = ()
    tables: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def plan(self, suite: Any, options: Options, progress: Progress) -> Planned[U]:
        """All units of a suite. Computes nothing; refuses everything that a user can get wrong."""

    @abc.abstractmethod
    def lab(self, device: torch.device, cache: Path, batch_size: int | None, *, audit: bool) -> Lab[U]:
        """What measures units."""

    @abc.abstractmethod
    def board(self, records: Sequence[R], *, claimed: Sequence[R] = ()) -> pd.DataFrame:
        """Rows from records alone; `claimed` are those of others, not run again."""

    def names_of(self, unit: U) -> tuple[str, ...]:
        """What a pattern may pick a unit by: the label first, the id last."""
        return unit.id, unit.id

    def plugins(self, unit: U) -> list[tuple[Callable[[PluginSpec], Plugin], PluginSpec]]:
        """The plug-ins of a unit, each with what makes it: `attack_of` or `defense_of` of `plugins.configuring`."""
        return []

    def place(self, unit: U) -> Place | None:
        """Where the defenses of a unit are to work: one that can be built nowhere is refused beforehand."""
        return None

    def ties(self, unit: U) -> Ties:
        """What it shares with other units: a protocol that says so has its suites measured faster by many workers."""
        return Ties()

    def kind_of(self, unit: U) -> str:
        """Units of one kind take about as long as each other."""
        return type(unit).__name__

    def is_finished(self, record: R, unit: U, *, audit: bool) -> bool:
        """Whether a record that is ok says what measuring its unit would say again."""
        return True

    def data(self, unit: U) -> dict[str, tuple[DatasetSpec, str]]:
        """Role, as `Envelope.data_files` names it -> data set of a unit, and its fingerprint."""
        return {}

    def inputs(self, unit: U) -> Sequence[Path] | None:
        """Files and folders that decide, beside the suite and installed packages, what a unit is.

        None where that cannot be said: then a finished run is planned again whenever it is asked for.
        """
        return None

    def moved(self, unit: U, places: Mapping[str, DatasetSpec]) -> U:
        """The unit with its data sets, by role as in `data`, where they lie now."""
        return unit

    def without_data(self, unit: U) -> U:
        """The unit whatever its images are: equal before and after a change of them."""
        return unit

    def newest(self, records: Iterable[R]) -> list[R]:
        """Of several records of one unit the one that counts: by default the newest.

        Of very many it is given heads, not records: see `dpbench.records.collected`.
        """
        return list({record.id: record for record in sorted(records, key=lambda one: one.created)}.values())

    def rows(self, records: Sequence[R]) -> Mapping[Row, BoardRow]:
        """Name of a row of the board -> the per-image figures it rests on, by which the gate compares two runs."""
        return {}

    def members(self, records: Sequence[R]) -> Mapping[Row, tuple[str, ...]]:
        """Name of a row of the board -> ids of the units that it rests on; empty: no row is measured alone.

        What a row is set against, such as an undefended model, belongs to other rows.
        """
        return {}

    def columns_of(self, records: Sequence[R], row: Row) -> Mapping[str, Any]:
        """Column -> value of one row of the board; empty where it has no such row."""
        rows = ({str(key): value for key, value in one.items()} for one in self.board(records).to_dict("records"))
        return next((values for values in rows if self.boards.layout.name_of(values) == row), {})

    def figures(self, records: Sequence[R]) -> pd.DataFrame:
        """Per-image figures: a row per unit and victim."""
        rows = [
            {
                "id": record.id,
                "label": record.named.label,
                "defense": record.named.defense,
                "attack": record.named.attack,
                "victim": place,
                "victim_hash": victim,
                **{metric: values[place] for metric, values in record.fidelity.items()},
            }
            for record in records
            for place, victim in enumerate(record.victims)
        ]
        return pd.DataFrame(rows)

    def as_csv(self, board: pd.DataFrame) -> str:
        """A board as `board.csv` has it."""
        return csv_text(board)

    def write(self, records: Sequence[R], board: pd.DataFrame, output: Path, plot: str) -> int:
        """A board or a plot as a file whose ending says what it is; returns how many rows it rests on."""
        if output.suffix != ".csv":
            raise DpbenchError(f"{output.name}: boards of the protocol {self.name!r} end in .csv")
        text = self.as_csv(board)
        write_atomically(output, lambda path: path.write_text(text, encoding="utf-8", newline="\n"))
        return len(board)

    def write_paper(
        self, board: pd.DataFrame, output: Path, rows: str | None = None, columns: Sequence[str] | None = None
    ) -> int:
        """A board as a table of LaTeX; rows and columns as its protocol calls them. Returns how many rows it has."""
        raise DpbenchError(f"{output.name}: boards of the protocol {self.name!r} are no tables for a paper")

    def show(self, records: Sequence[R], board: pd.DataFrame, console: Console) -> None:
        """The table at the end of a run."""
        table = Table(box=None, pad_edge=False)
        for column in board.columns:
            table.add_column(clean(column))
        for row in board.astype(str).itertuples(index=False):
            table.add_row(*(Text(clean(value)) for value in row))
        console.print(table)

    def drawings(
        self, records: Sequence[R], board: pd.DataFrame, folder: Path, *, pictures: bool
    ) -> dict[str, Callable[[], object]]:
        """Name of a file beside the board -> what writes it; `pictures`: reconstructions are there to be shown."""
        return {}

    def page(self, records: Sequence[R], board: pd.DataFrame, folder: Path | None, *, title: str) -> Any:
        """What `report.html` says, a `dpbench.report.content.Report`; None: what can be said of any board."""
        return None

    def doubts(self, records: Sequence[R]) -> list[str]:
        """What a reader of the table should know of a run, a line each."""
        return []

    def progress_of(self, record: R) -> str:
        """What came out, in a few words: `SSIM 0.831`."""
        return ssim_text(record.fidelity, decimals=3) if record.attacked else "done"

    def caption(self, record: R) -> tuple[str, str]:
        """Of a finished attack: what heads its row in a picture, and which attack with what came out."""
        return record.named.defense, record.named.attack

    def contradictions(self, records: Sequence[R]) -> Iterable[tuple[str, str]]:
        """What records of a run say that cannot be so, beyond their ranges: the id of one, and a phrase."""
        return ()

    def shareable(self, suite: Any, options: Options, progress: Progress, *, undefended: bool) -> list[Shareable]:
        """What of a suite can be sent to a partner; `undefended`: the public networks that a partner has."""
        return []
