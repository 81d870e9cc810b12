"""Boards as files: .csv to derive and diff, and to read again; .md for people."""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dpbench.board.columns import (
    CELL_LAYOUT,
    CLIENT_COUNTS,
    COLUMNS,
    COUNTS,
    GUARANTEES,
    KEY,
    MEANS,
    ORDER,
    READINGS,
    TEXT,
    BoardKind,
    CsvTable,
    decimals_of,
    own_metrics,
    tidy,
)
from dpbench.errors import DpbenchError
from dpbench.metrics.table import CALIBRATED, assert_can_be
from dpbench.metrics.table import RANGES as METRIC_RANGES
from dpbench.text.shown_text import LIMIT, clean
from dpbench.text.tables import csv_text, in_markdown, unmarked


def _text(value: float, decimals: int) -> str:
    return "" if np.isnan(value) else f"{value:.{decimals}f}"


def as_text(board: pd.DataFrame) -> pd.DataFrame:
    """Every value as the text that is written: fixed decimals, empty for what is not there."""
    shown = board.astype(object)
    decimals = decimals_of(own_metrics(board).values())
    for column in (column for column in board if column in decimals):
        shown[column] = [_text(float(value), decimals[column]) for value in board[column]]
    for column in (column for column in board if column in COUNTS):
        shown[column] = ["" if pd.isna(value) else str(value) for value in board[column]]
    return shown.astype(str)


def to_read(board: pd.DataFrame) -> pd.DataFrame:
    """The board as text for people: n/a for guarantees that cannot be, and in `status` what else one must know."""
    from dpbench.board.caveats import (
        not_converged,  # it brings torch, which reading a board does not need
        recognised,
    )

    text = as_text(board)
    for column in GUARANTEES:
        text[column] = text[column].where((text[column] != "") | (text["status"] == "failed"), "n/a")
    named = ("victims re-identified all the same" if found else "" for found in recognised(board))
    rows = board.to_dict("records")
    text["status"] = [
        "; ".join(filter(None, [row["status"], not_converged(row), known]))
        for row, known in zip(rows, named, strict=True)
    ]
    return text


def _readable(board: pd.DataFrame) -> pd.DataFrame:
    """The columns that fit a page: one for each figure, with its interval in brackets."""
    text = to_read(board)
    page = text[["dataset", "backbone", "split_point"]].copy()
    page["defense"] = (text["defense"] + " " + text["defense_args"]).str.strip()
    for column in ("attack", "threat_model", "auxiliary", "releases", "budget", "server", "seed", "images"):
        if column in text:
            page[column] = text[column]
    page["accuracy"] = _with_interval(text, "accuracy")
    page["drop"] = text["accuracy_drop"]
    recognition = ("reid_top1", "identity_top1", "link_top1", "label_read")
    for metric in ("ssim", "psnr_db", "lpips", *own_metrics(board), *recognition, "leakage"):
        if metric in text:
            page[metric] = _with_interval(text, metric)
    if "leakage_metrics" in text:
        page["leakage_metrics"] = text["leakage_metrics"]
    page["mse_bound"] = text["mse_bound"]
    page["epsilon"] = [
        f"{epsilon} (delta {float(delta):g})" if delta not in ("", "n/a") else epsilon
        for epsilon, delta in zip(text["epsilon"], text["delta"], strict=True)
    ]
    for column in (
        column for column in ("information_bits", *CLIENT_COUNTS, "client_share", "client_ms") if column in text
    ):
        page[column] = text[column]
    for column in ("ensemble", "tied", "origin"):
        page[column] = text[column]
    page["status"] = [
        status if not error else f"{status}: {error}"
        for status, error in zip(text["status"], text["error"], strict=True)
    ]
    return page.astype(str).map(lambda text: clean(text, 2 * LIMIT))


def _with_interval(text: pd.DataFrame, metric: str) -> list[str]:
    parts = zip(text[metric], text[f"{metric}_low"], text[f"{metric}_high"], strict=True)
    return [f"{mean} [{low}, {high}]" if mean and low else mean for mean, low, high in parts]


def board_csv(board: pd.DataFrame) -> str:
    """A board of cells as its CSV file has it."""
    return csv_text(as_text(board))


def _markdown(board: pd.DataFrame) -> str:
    from dpbench.board.caveats import caveats  # as above

    page = _readable(board).map(in_markdown)
    table = str(page.to_markdown(index=False, disable_numparse=True))
    return "\n\n".join([table, *caveats(board)]) + "\n"


_WRITERS = {".csv": board_csv, ".md": _markdown}

ENDINGS = (*_WRITERS, ".html", ".tex")
"""Of boards; a page is written by `dpbench.report.page`, a table for a paper by `dpbench.reporting.paper_table`."""


def write_board(board: pd.DataFrame, path: Path) -> None:
    """Write a board in the format that the ending names: .csv or .md; whole, or not at all.

    Raises:
        DpbenchError: another ending, or the disk does not take the file.
    """
    from dpbench.machine.writing import write_atomically  # it brings torch, which reading a board does not need

    render = _WRITERS.get(path.suffix.lower())
    if render is None:
        raise DpbenchError(
            f"{path.name}: a board ends in {', '.join(ENDINGS)}, not in {path.suffix or 'no ending'!r}; "
            "choose one of these endings"
        )
    text = render(board)
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8", newline="\n"))


SHARE = (0.0, 1.0)

NOT_NEGATIVE = (0.0, math.inf)

RANGES: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("accuracy", "accuracy_top5", "reid_top1", "reid_top5", "identity_top1", "label_read"), SHARE),
    **dict.fromkeys(("link_top1", "link_chance", "client_share"), SHARE),
    **dict.fromkeys(("leakage", *(f"leakage_{metric}" for metric in CALIBRATED)), SHARE),
    **dict.fromkeys(("reid_chance", "identity_chance", "judge_accuracy", "delta"), SHARE),
    **METRIC_RANGES,
    **dict.fromkeys(("hypervolume", *(name for name, *_ in READINGS.values())), SHARE),
    "accuracy_drop": (-1.0, 1.0),
    **dict.fromkeys(("added_multiply_adds", "added_parameters"), (-math.inf, math.inf)),
    "releases": (1.0, math.inf),
}
"""Column -> the smallest and largest value it can have; columns that are not listed are 0 or more."""

MISSING = ("", "nan", "na", "n/a")
"""Texts that stand for a figure that is not there, whatever their case."""

NAMED = 5
"""Missing columns that an error names."""

_WORDS = ("status", "threat_model", "auxiliary", "budget", "origin", "converged", "server")
"""Columns that hold one of a few words, whose case says nothing."""

_AGAIN = "write it again with `dpbench leaderboard DIR --output FILE.csv`"


def read_board(path: Path) -> pd.DataFrame:
    """A board from its CSV file: commas, semicolons or tabs, decimal commas beside semicolons, in any column order.

    Columns that boards do not have are left out, those that only newer boards have may be missing.

    Raises:
        DpbenchError: no such file, no CSV table, cut short, columns missing (named), or a value that cannot be
            (named by row and column).
    """
    return _cell_board(read_table(path))


def _cell_board(table: CsvTable) -> pd.DataFrame:
    path, header = table.path, table.header
    _refuse_header(header, path)
    board = pd.DataFrame(table.rows, columns=header, dtype=object)
    metrics = own_metrics(board)
    ranges = {**RANGES, **{name: facts.range for name, facts in metrics.items()}}
    decimals = {column: places for column, places in decimals_of(metrics.values()).items() if column in header}
    known = [column for column in header if column in ORDER or column in decimals]
    for column in known:
        if column in TEXT:
            board[column] = [_as_written(column, value) for value in board[column]]
        else:
            board[column] = [
                _figure(column, value, table.separator, f"board {path}, data row {number}", ranges)
                for number, value in enumerate(board[column], start=1)
            ]
    means = {column: decimals[column] for column in (*MEANS, *metrics) if column in decimals}
    for number, row in enumerate(board.to_dict("records"), start=1):
        values = {str(column): value for column, value in row.items()}
        _refuse_interval(values, f"board {path}, data row {number}", means)
    return tidy(board.reindex(columns=known))


def read_table(path: Path) -> CsvTable:
    """A CSV file of any columns.

    Raises:
        DpbenchError: no such file, no CSV table, or cut short.
    """
    try:
        content = path.read_bytes()
        utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DpbenchError(f"board {path} cannot be read: {reason}; expected a .csv board") from error
    told = re.match(r"sep=([,;\t])\r?\n", text)  # what Excel writes and reads
    if told:
        text = text[told.end() :]
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = told.group(1) if told else max(",;\t", key=first.count)
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True))
    except csv.Error as error:
        raise DpbenchError(f"board {path} is not a CSV table: {error}; {_AGAIN}") from error
    filled = [[unmarked(value.strip()) for value in line] for line in lines if any(value.strip() for value in line)]
    if not filled:
        raise DpbenchError(f"board {path} is not a CSV table: it is empty; {_AGAIN}")
    header, rows = [name.casefold() for name in filled[0]], filled[1:]
    while header and not header[-1]:  # spreadsheets end lines with separators
        header.pop()
    for number, row in enumerate(rows, start=1):
        while len(row) > len(header) and not row[-1]:
            row.pop()
        if len(row) != len(header):
            cut = f"is not a CSV table: data row {number} has {len(row)} of {len(header)} values"
            raise DpbenchError(f"board {path} {cut}{'; it is cut short' if number == len(rows) else ''}; {_AGAIN}")
    return CsvTable(path, header, rows, separator)


def _refuse_header(header: Sequence[str], path: Path) -> None:
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise DpbenchError(f"board {path} has two columns {twice!r}; keep one of them")
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise DpbenchError(f"board {path} lacks the columns {', '.join(missing[:NAMED])}{more}; {_AGAIN}")


def _as_written(column: str, value: str) -> str:
    if column == "seed" and re.fullmatch(r"\d+[.,]0*", value):  # a spreadsheet took it for a measurement
        return re.split("[.,]", value)[0]
    return value.casefold() if column in _WORDS or (column == "seed" and value.isalpha()) else value


def _figure(column: str, value: str, separator: str, where: str, ranges: Mapping[str, tuple[float, float]]) -> float:
    """A figure, NaN where there is none."""
    if value.casefold() in MISSING:
        if column in KEY:
            raise DpbenchError(f"{where}: {column} is {value!r}; expected a number")
        return math.nan
    # beside commas that separate values it could be anything
    given = value.replace(",", ".") if separator != "," and re.fullmatch(r"[-+]?\d+,\d+", value) else value
    number = float(given) if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", given, re.ASCII) else math.nan
    if not math.isfinite(number):
        raise DpbenchError(f"{where}: {column} is {value!r}; expected a number")
    stem = re.sub("_(low|high)$", "", column)
    low, high = ranges.get(stem if stem in MEANS or stem in ranges else column, NOT_NEGATIVE)
    assert_can_be(number, low, high, f"{where}: {column} is {value}", whole=column in COUNTS)
    return number


def _refuse_interval(row: Mapping[str, float], where: str, means: Mapping[str, int]) -> None:
    """An error unless each figure lies in its interval; each end and figure is rounded for itself."""
    for column, decimals in means.items():
        mean, low, high = (row.get(f"{column}{end}", math.nan) for end in ("", "_low", "_high"))
        rounding = 10.0**-decimals
        if math.isnan(mean) and not (math.isnan(low) and math.isnan(high)):
            raise DpbenchError(f"{where}: {column} is empty beside its interval [{low:g}, {high:g}]; expected a number")
        if low > mean + rounding or mean > high + rounding:  # never of NaN
            raise DpbenchError(f"{where}: {column} is {mean:g}, outside its interval [{low:g}, {high:g}]")


CELL_BOARDS = BoardKind(CELL_LAYOUT, _cell_board)
