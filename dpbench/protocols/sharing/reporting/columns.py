"""The columns of a board of a sharing suite; they are explained in dpbench/guide/sharing-features.md."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import pandas as pd

from dpbench.board.columns import BoardKind, CsvTable, Layout, Row, arguments_of, assert_free, own_metrics
from dpbench.board.files import NAMED, RANGES
from dpbench.contract.metric import MetricFacts
from dpbench.errors import DpbenchError
from dpbench.metrics.table import assert_can_be
from dpbench.suite.names import varying

FIGURES = ("ssim", "psnr_db", "lpips")
"""Metrics of the worst case over all attacks that have a column and an interval each."""

Knowledge = Literal["public", "own", "query", "weights"]
"""What the receiver knows of the sender's defense when it attacks what was shared. `public`: the undefended public head
alone; `own`: a defense of the same kind that it fitted itself, on its own images; `query`: the sender's defended client
as a black box; `weights`: that client itself."""

KNOWLEDGE: tuple[Knowledge, ...] = get_args(Knowledge)
"""All of them, weakest first: each knows what those before it know."""

FLOOR = "floor"
"""What the column `condition` says in the row of the best guess per image: the zero of the scale."""

SUBJECT = ("dataset", "backbone", "split_point", "receiver", "senders")

COLUMNS = (
    *SUBJECT,
    *("condition", "defense", "defense_args"),
    *("status", "seeds", "own_images", "shared_images"),
    *("accuracy", "accuracy_low", "accuracy_high"),
    *("gain", "gain_low", "gain_high", "share_kept", "share_kept_low", "share_kept_high"),
    *("serves", "agreement", "kl", "public_accuracy", "distortion"),
    "victims",
    *(f"ssim_{knowledge}" for knowledge in KNOWLEDGE),
    *(f"{metric}{end}" for metric in FIGURES for end in ("", "_low", "_high")),
    *("reid_top1", "reid_top1_low", "reid_top1_high", "label_read", "label_read_low", "label_read_high"),
    *("leakage", "leakage_low", "leakage_high", "leakage_metrics", "trained_on", "error"),
)

COUNTS = ("client_multiply_adds", "added_multiply_adds", "added_parameters", "release_bits", "coded_bits")
"""What the client of a sender does, stores and sends for one image, its defense included."""

RIVAL = "over_soft_labels"
"""What the receiver gains beyond the sender's soft labels on public images, which show nothing of the sender's own."""

OPTIONAL_COLUMNS = (
    *("link_top1", "link_top1_low", "link_top1_high", "link_chance"),
    *COUNTS,
    "client_ms",
    *(f"{RIVAL}{end}" for end in ("", "_low", "_high")),
)
"""Columns that are written only when some row has a value, so that older boards stay byte-identical; they come last."""

DECIMALS = {"psnr_db": 2, "psnr_db_low": 2, "psnr_db_high": 2, "client_ms": 3, "link_chance": 6}

OWN = "leakage"
"""Metrics that are not dpbench's own stand before this column, and after them `metrics`: how they are read."""

WORDS = ("condition", "defense", "defense_args", "status", "seeds", "serves", "leakage_metrics", "trained_on", "error")
"""Columns of text, beside those of `SUBJECT`."""

LATER = ("leakage_metrics",)
"""Columns that boards of before do not have."""

NUMBERS = tuple(column for column in (*COLUMNS, *OPTIONAL_COLUMNS) if column not in SUBJECT + WORDS)
"""Columns that hold figures."""

BESIDE = ("origin",)
"""Columns of boards with rows of several runs alone: see `dpbench.gate.beside`."""


def columns_with(own: Iterable[str], there: Iterable[str] = ()) -> list[str]:
    """The columns of a board: `COLUMNS`, metrics that are not dpbench's own, and of the optional ones those there."""
    further = [f"{name}{end}" for name in own for end in ("", "_low", "_high")]
    place = COLUMNS.index(OWN)
    known = [*COLUMNS[:place], *further, *(["metrics"] if further else []), *COLUMNS[place:]]
    return known + [column for column in OPTIONAL_COLUMNS if column in there]


def sharing_row_name(row: Row) -> str:
    """`b trains on a | resnet10t layer1 | defended-features dpm strength=5.0 (cifar10)`."""
    dataset, backbone, split_point, receiver, senders, condition, defense, arguments = row[:8]
    setting = " ".join(part for part in (condition, defense, arguments) if part)
    return f"{receiver} trains on {senders} | {backbone} {split_point} | {setting} ({dataset})"


def varied_arguments(rows: pd.DataFrame) -> dict[object, dict[str, str]]:
    """Row -> the parameters in which settings of its defense differ -> value."""
    known = arguments_of(rows)
    given = {place: known.get(text, {}) for place, text in rows["defense_args"].items()}
    short: dict[object, dict[str, str]] = {}
    for _, same in rows.groupby("defense", sort=False):
        varied = varying([given[place] for place in same.index])
        for place in same.index:
            short[place] = {name[1]: given[place][name] for name in varied if name in given[place]}
    return short


def read_sharing_board(table: CsvTable) -> pd.DataFrame:
    """A board of a sharing suite from the text of its CSV file.

    Raises:
        DpbenchError: a column is missing, or a figure is no number.
    """
    missing = [column for column in COLUMNS if column not in table.header and column not in LATER]
    if missing:
        raise DpbenchError(
            f"board {table.path} lacks the columns {', '.join(missing[:NAMED])}; write it again with "
            "`dpbench leaderboard DIR --output FILE.csv`"
        )
    board = pd.DataFrame(table.rows, columns=table.header, dtype=object)
    own = own_metrics(board)
    assert_free(own.values(), (*COLUMNS, *OPTIONAL_COLUMNS))
    known = columns_with(own, table.header)
    board = board.reindex(columns=[*known, *(name for name in BESIDE if name in table.header)])
    for column in board.columns.difference([*SUBJECT, *WORDS, *BESIDE, "metrics"]):
        try:
            board[column] = pd.to_numeric(board[column].replace("", None))
        except (ValueError, TypeError) as error:
            raise DpbenchError(f"board {table.path}: {column}: {error}; expected numbers") from error
        _refuse_what_cannot_be(board[column], f"board {table.path}", own)
    return board


def _refuse_what_cannot_be(figures: pd.Series[float], where: str, own: Mapping[str, MetricFacts]) -> None:
    """An error where a figure is not finite, or outside the range of what its column begins with."""
    column = str(figures.name)
    of_whom = re.sub("_(public|own|query|weights|low|high)", "", column)
    anything = (-math.inf, math.inf)
    low, high = own[of_whom].range if of_whom in own else RANGES.get(of_whom, anything)
    for number, value in enumerate(figures.astype(float), start=1):
        if not math.isnan(value):
            assert_can_be(value, low, high, f"{where}, data row {number}: {column} is {value:g}")


SHARING_BOARDS = BoardKind(
    Layout((*SUBJECT, "condition", "defense", "defense_args"), sharing_row_name, count="victims"), read_sharing_board
)
