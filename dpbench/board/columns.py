"""The columns of a board: what they are called, how they are ordered and rounded, which name a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from dpbench.contract.metric import MetricFacts
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
"""What names a row, beside its `server`: see `row_key`."""


MEANS = {
    "accuracy": 4,
    "accuracy_top5": 4,
    "accuracy_drop": 4,
    **{name: BUILT_IN[name].decimals for name in ON_BOARDS},
    "reid_top1": 4,
    "reid_top5": 4,
    "identity_top1": 4,
    "label_read": 4,
    "leakage": 4,
    **{f"leakage_{name}": 4 for name in CALIBRATED},
    "mse_bound": 6,
}
"""Decimals of the figures that are means over images; each has an interval."""


OTHERS = {
    "accuracy_spread": 4,
    "ssim_spread": 4,
    "leakage_spread": 4,
    "reid_chance": 4,
    "identity_chance": 4,
    "judge_accuracy": 4,
    "epsilon": 3,
    "delta": 8,
    "seconds": 1,
}


DECIMALS = {f"{column}{end}": n for column, n in MEANS.items() for end in ("", "_low", "_high")} | OTHERS
"""Decimals of every figure: fixed, so that the same records give the same bytes."""


COUNTS = ("releases", "images", "leakage_images", "release_bits")


ORDER = (
    *KEY,
    *("server", "status", "images", "ensemble", "headline", "converged"),
    *DECIMALS,
    *("metrics", "release_bits", "leakage_metrics", "leakage_images", "trained_on", "tied", "origin", "error", "cell"),
)


WHERE_ASKED = (
    "server",
    "headline",
    "metrics",
    *("leakage_metrics", "leakage_images"),
    *("accuracy_top5", "accuracy_top5_low", "accuracy_top5_high"),
    *("identity_top1", "identity_top1_low", "identity_top1_high", "identity_chance"),
)
"""Columns that only those boards have in which they are not empty: the others stay what they were, byte for byte."""


COLUMNS = tuple(column for column in ORDER if column not in WHERE_ASKED)
"""The columns of every board, in order; documented in dpbench/guide/boards.md, as are those `WHERE_ASKED`."""


DEFAULT_HEADLINE = "leakage"
"""What a board is about where its column `headline` names nothing else."""


TEXT = tuple(column for column in ORDER if column not in DECIMALS and column not in COUNTS)


FURTHER_PER_IMAGE = ("floor", "victim", "victim_hash", "correct", "reid_rank", "identity_rank")
"""Columns of `dpbench.load_records` that boards do not have."""


GUARANTEES = ("mse_bound", "epsilon", "delta")


WORST_CASE = "worst-case"
"""What the `attack` column says in the row that takes the best reconstruction per image."""


FLOOR = "floor"
"""What it says in the row that takes the best guess per image: the zero of the scale."""


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


def assert_free(metrics: Iterable[MetricFacts]) -> None:
    """Refuse a metric whose name heads another column.

    Raises:
        DpbenchError: it does; says which.
    """
    for facts in metrics:
        if facts.name in (*ORDER, *BUILT_IN, *FURTHER_PER_IMAGE):
            raise DpbenchError(f"a metric cannot be called {facts.name!r}: boards have such a column; rename it")


def decimals_of(metrics: Iterable[MetricFacts]) -> dict[str, int]:
    """`DECIMALS`, and those of metrics that are not dpbench's own."""
    return DECIMALS | {f"{facts.name}{end}": facts.decimals for facts in metrics for end in ("", "_low", "_high")}


def row_key(values: Mapping[str, Any]) -> tuple[str, ...]:
    """What a row of any board is matched by: `KEY`, then its `server`, empty where a board has no such column."""
    server = values.get("server", "")
    return *(str(values[column]) for column in KEY), server if server == "trusted" else ""


def same_leakage(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether leakage means the same in two rows: only then may it be compared, and each of its parts.

    Rows say of which metrics it is made. Rows of older boards do not, and have another scale than those that do; two
    of them are alike where both or neither have LPIPS.
    """
    made_of = [str(row.get("leakage_metrics", "") or "") for row in (one, other)]
    made_of = ["" if label == "nan" else label for label in made_of]
    if made_of == ["", ""]:
        return bool(pd.isna(one["lpips"]) == pd.isna(other["lpips"]))
    return made_of[0] == made_of[1]


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


Row: TypeAlias = tuple[str, ...]
"""What names a row: the columns of a `Layout` that do."""


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
        """The name of a row."""
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


CELLS = Layout(KEY, row_name, further="server", whole=True)
"""Of boards of cells."""
