"""The columns of boards: what they are called, how they are ordered and rounded, which of them name a row."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from dpbench.contract.metric import MetricFacts
from dpbench.contract.threat import DERIVED
from dpbench.errors import DpbenchError
from dpbench.metrics.table import BUILT_IN, CALIBRATED, ON_BOARDS

KEY = (
    "dataset",
    "backbone",
    "split_point",
    "defense",
    "defense_args",
    "attack",
    "threat_model",
    "auxiliary",
    "releases",
    "budget",
    "seed",
)
"""The columns that name a row, beside its `server`: see `CELL_LAYOUT`."""

MEANS = {
    "accuracy": 4,
    "accuracy_top5": 4,
    "accuracy_drop": 4,
    **{name: BUILT_IN[name].decimals for name in ON_BOARDS},
    "reid_top1": 4,
    "reid_top5": 4,
    "identity_top1": 4,
    "label_read": 4,
    "link_top1": 4,
    "leakage": 4,
    **{f"leakage_{name}": 4 for name in CALIBRATED},
    "mse_bound": 6,
}
"""Decimals of the figures that are means over images; each has an interval."""

LOSSES = (1, 3, 5)
"""Points of accuracy lost at which leakage is read off: see `dpbench.tradeoffs.fronts`."""

READINGS = {loss: (f"leakage_at_{loss}", f"leakage_at_{loss}_low", f"leakage_at_{loss}_high") for loss in LOSSES}
"""Points lost -> the columns of that leakage, and of the ends of its interval."""

OTHERS = {
    "accuracy_spread": 4,
    "ssim_spread": 4,
    "leakage_spread": 4,
    "reid_chance": 4,
    "identity_chance": 4,
    "link_chance": 6,
    "judge_accuracy": 4,
    "epsilon": 3,
    "delta": 8,
    "information_bits": 2,
    "seconds": 1,
    "client_share": 4,
    "client_ms": 3,
    "hypervolume": 4,
    **{column: 4 for columns in READINGS.values() for column in columns},
}

DECIMALS = {f"{column}{end}": n for column, n in MEANS.items() for end in ("", "_low", "_high")} | OTHERS
"""Decimals of every figure: fixed, so that the same records give the same bytes."""

CLIENT_COUNTS = ("client_multiply_adds", "added_multiply_adds", "added_parameters", "coded_bits")
"""What the client does, stores and sends for one image, its defense included."""

COUNTS = ("releases", "images", "leakage_images", "release_bits", *CLIENT_COUNTS)

ORDER = (
    *KEY,
    *("server", "status", "images", "ensemble", "headline", "converged"),
    *DECIMALS,
    *("metrics", "release_bits", *CLIENT_COUNTS),
    *("leakage_metrics", "leakage_images", "trained_on"),
    *("tied", "on_front", "on_cost_front", "origin", "error", "cell"),
)

OPTIONAL_COLUMNS = (
    "server",
    "headline",
    "metrics",
    *("leakage_metrics", "leakage_images"),
    *("accuracy_top5", "accuracy_top5_low", "accuracy_top5_high"),
    *("identity_top1", "identity_top1_low", "identity_top1_high", "identity_chance"),
    *("link_top1", "link_top1_low", "link_top1_high", "link_chance"),
    "information_bits",
    *("client_share", "client_ms", *CLIENT_COUNTS),
    *("hypervolume", *(column for columns in READINGS.values() for column in columns), "on_front", "on_cost_front"),
)
"""Columns that are written only when some row has a value, so that older boards stay byte-identical."""

COLUMNS = tuple(column for column in ORDER if column not in OPTIONAL_COLUMNS)
"""The columns of every board, in order; documented in dpbench/guide/boards.md, as are those `OPTIONAL_COLUMNS`."""

DEFAULT_HEADLINE = "leakage"
"""The figure that orders a board and that its pictures show, where the column `headline` names no other."""

TEXT = tuple(column for column in ORDER if column not in DECIMALS and column not in COUNTS)


FURTHER_PER_IMAGE = ("floor", "victim", "victim_hash", "correct", "reid_rank", "identity_rank", "link_rank")
"""Columns of `dpbench.load_records` that boards do not have."""

GUARANTEES = ("mse_bound", "epsilon", "delta")

WORST_CASE, FLOOR = DERIVED
"""What the `attack` column says in the row that takes the best reconstruction per image, and in the one that takes the
best guess: the zero of the scale."""


def own_metrics(board: pd.DataFrame) -> dict[str, MetricFacts]:
    """Metrics on a board that are not dpbench's own, by name, as its column `metrics` says how to read them.

    Raises:
        DpbenchError: the column holds something else, a metric has the name of another column, or two have one name.
    """
    found: dict[str, MetricFacts] = {}
    for said in dict.fromkeys(board["metrics"].dropna()) if "metrics" in board else ():
        for text in str(said).split():
            try:
                facts = MetricFacts.parse(text)
            except ValueError as error:  # pydantic's too
                raise DpbenchError(
                    f"column metrics of the board holds {text[:60]!r}; expected "
                    "name:closer:decimals:tolerance:low:high of each metric that is not dpbench's own"
                ) from error
            assert_free([facts])
            if found.setdefault(facts.name, facts) != facts:
                raise DpbenchError(
                    f"two metrics of one board are called {facts.name!r}, and their figures are read differently; "
                    "give them two names"
                )
    return found


def assert_free(metrics: Iterable[MetricFacts], further: Iterable[str] = ()) -> None:
    """Refuse a metric whose name heads another column of boards of cells, or one of `further`.

    Raises:
        DpbenchError: it does; says which.
    """
    for facts in metrics:
        if facts.name in (*ORDER, *BUILT_IN, *FURTHER_PER_IMAGE, *further):
            raise DpbenchError(f"a metric cannot be called {facts.name!r}: boards have such a column; rename it")


def decimals_of(metrics: Iterable[MetricFacts]) -> dict[str, int]:
    """`DECIMALS`, and those of metrics that are not dpbench's own."""
    return DECIMALS | {f"{facts.name}{end}": facts.decimals for facts in metrics for end in ("", "_low", "_high")}


def headline_of(board: pd.DataFrame) -> str:
    """The column that a board is about; the default where its rows do not agree."""
    named = set(board["headline"]) if "headline" in board else set()
    return str(named.pop()) if len(named) == 1 else DEFAULT_HEADLINE


def tidy(board: pd.DataFrame) -> pd.DataFrame:
    """Columns in order, with their types, figures rounded to the decimals that are written."""
    filled = board.columns[(board.notna() & (board != "")).any()]
    decimals_by = decimals_of(own_metrics(board).values())
    own = [column for column in decimals_by if column not in DECIMALS]
    order = [one for column in ORDER for one in ([*own, column] if column == "metrics" else [column])]
    columns = [column for column in order if column in COLUMNS or column in filled]
    board = board.reindex(columns=columns).reset_index(drop=True)
    for column in columns:
        if column in TEXT:
            board[column] = board[column].astype(object).where(board[column].notna(), "").astype(str)
        elif column in COUNTS:
            board[column] = board[column].astype("Int64")  # nullable: a failed cell scored no images
        else:
            decimals = decimals_by[column]
            figures = board[column].astype("float64").replace([np.inf, -np.inf], np.nan)
            board[column] = figures.round(decimals) + 0.0  # + 0.0: no -0.0000
    return board


Arguments: TypeAlias = Mapping[str, Mapping[Any, str]]
"""What `defense_args` says in a row -> parameter -> value; where several defenses meet, number and parameter."""


def with_arguments(board: pd.DataFrame, arguments: Arguments) -> pd.DataFrame:
    """The same board, and beside its text what the arguments of its defenses are."""
    board.attrs["arguments"] = arguments
    return board


def arguments_of(board: pd.DataFrame) -> Arguments:
    """What the arguments of the defenses on a board are; of one that was read from a file its text says all."""
    arguments: Arguments = board.attrs.get("arguments", {})
    return arguments


Row: TypeAlias = tuple[str, ...]
"""The name of a row: the values of the columns that a `Layout` lists as its key."""


@dataclass(frozen=True)
class Layout:
    """How the boards of a protocol name their rows: all that the gate needs to know of them.

    Attributes:
        key: columns that name a row.
        said: a row's name in words.
        further: a column that names a row where it holds anything.
        count: the column that says over how many images a row averages.
        whole: whether the columns of all figures must be there, also where they are empty.
    """

    key: tuple[str, ...]
    said: Callable[[Row], str]
    further: str = ""
    count: str = "images"
    whole: bool = False

    def name_of(self, values: Mapping[str, Any]) -> Row:
        """The values that name a row with these values, as text."""
        name = tuple(str(values[column]) for column in self.key)
        more = values.get(self.further) if self.further else None
        return (*name, more) if isinstance(more, str) and more else name

    def fits(self, columns: Iterable[str]) -> bool:
        """Whether a board has the columns that name a row."""
        return set(self.key) <= set(columns)


def row_name(row: Row) -> str:
    """`leaves resnet10t layer1 | gaussian noise_std=1.0 | worst-case (weights shifted releases=4, seed 0)`."""
    dataset, backbone, split_point, defense, arguments, attack, threat_model, auxiliary, releases, budget, seed = row[
        : len(KEY)
    ]
    setting = f"{defense} {arguments}".strip()
    granted = [threat_model, *(["shifted"] if auxiliary == "shifted" else [])]
    granted += [f"releases={releases}"] if releases != "1" else []
    granted += [budget] if budget != "standard" else []
    granted += [f"server={server}" for server in row[len(KEY) :]]
    return f"{dataset} {backbone} {split_point} | {setting} | {attack} ({' '.join(granted)}, seed {seed})"


CELL_LAYOUT = Layout(KEY, row_name, further="server", whole=True)
"""How boards of cells, one attack on one defense each, name their rows."""


@dataclass(frozen=True)
class CsvTable:
    """A CSV file as text.

    Attributes:
        path: of the file.
        header: names of the columns, in lower case.
        rows: each of as many values.
        separator: what stands between two values.
    """

    path: Path
    header: list[str]
    rows: list[list[str]]
    separator: str


def with_numbers(table: CsvTable) -> pd.DataFrame:
    """A board of any columns: those that hold nothing but numbers, and gaps, as numbers."""
    board = pd.DataFrame(table.rows, columns=table.header, dtype=object)
    for column in board.columns:
        with contextlib.suppress(ValueError):
            board[column] = pd.to_numeric(board[column].replace("", None))
    return board


@dataclass(frozen=True)
class BoardKind:
    """The boards of a protocol.

    Attributes:
        layout: how they name their rows.
        read: the text of a CSV file -> the board; refuses what it cannot be.
    """

    layout: Layout
    read: Callable[[CsvTable], pd.DataFrame] = with_numbers
