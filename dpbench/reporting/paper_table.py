"""A board as a table for a paper: a longtable of LaTeX, worst cases and eight columns unless others are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dpbench.board.caveats import caveats
from dpbench.board.columns import FLOOR, WORST_CASE, decimals_of, own_metrics
from dpbench.errors import DpbenchError, unknown
from dpbench.machine.writing import write_atomically
from dpbench.metrics.table import BUILT_IN
from dpbench.reporting.plots.plot_style import label_for
from dpbench.reporting.selection import granted, short_arguments
from dpbench.text.shown_text import clean

COLUMNS = ("defense", "attacker", "accuracy", "ssim", "lpips", "reid_top1", "label_read", "leakage")

ROWS: dict[str, Callable[[pd.DataFrame], pd.Series[bool]]] = {
    "worst": lambda board: board["attack"].isin([WORST_CASE, FLOOR]),
    "attacks": lambda board: ~board["attack"].isin([WORST_CASE, FLOOR]),
    "all": lambda board: board["attack"].notna(),
}
"""What `--rows` may ask for: worst cases and the floor, single attacks, or both."""

HEADINGS = {
    "defense": "Defense",
    "attacker": "Attacker",
    "accuracy": r"Top-1/\%",
    "accuracy_drop": r"Drop/\%",
    "reid_top1": r"Re-id/\%",
    "identity_top1": r"Person/\%",
    "label_read": r"Read/\%",
    "leakage": "Leakage",
    **{name: metric.label for name, metric in BUILT_IN.items()},
}
"""Column -> its heading, where that is not its name."""

PERCENT = ("accuracy", "accuracy_drop", "accuracy_top5", "reid_top1", "reid_top5", "identity_top1", "label_read")

DECIMALS = {"ssim": 2, "lpips": 2, "psnr_db": 1, "leakage": 2}
"""Figures that a paper wants with fewer decimals than a board has."""

ALIGNED = {"defense": r">{\raggedright\arraybackslash}p{2.4cm}", "attacker": "l"}
"""Column -> how it stands, where that is not to the right: eight of them fit the page of an article."""

WITH_INTERVAL = ("leakage",)

GROUP = ["dataset", "backbone", "split_point", "seed"]

TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def write_paper_table(board: pd.DataFrame, path: Path, *, rows: str = "worst", columns: Sequence[str] = COLUMNS) -> int:
    """Write some rows and columns of a board as a longtable for an article to input.

    Args:
        board: from `dpbench.board.leaderboard`, or read from a file.
        path: ends in .tex.
        rows: `worst`, `attacks` or `all`.
        columns: of the board; `defense` stands with the parameters that tell it from its namesakes, `attacker` is who
            attacks and what that one is granted.

    Returns:
        How many rows it has.

    Raises:
        DpbenchError: no such rows or column, or nothing to show.
    """
    if rows not in ROWS:
        raise unknown("rows", rows, ROWS)
    there = ["defense", "attacker", *(str(column) for column in board.columns)]
    for column in columns:
        if column not in there:
            raise unknown("column", column, there)
    chosen = board[ROWS[rows](board)]
    if chosen.empty or not columns:
        raise DpbenchError(f"{path.name}: the board has no such rows, or no column is asked for; nothing to write")
    text = "\n".join([*_head(columns), *_body(chosen, columns), *_foot(chosen)])
    write_atomically(path, lambda file: file.write_text(f"{text}\n", encoding="utf-8", newline="\n"))
    return len(chosen)


def _head(columns: Sequence[str]) -> Iterator[str]:
    yield r"% needs \usepackage{array,booktabs,longtable}"
    yield r"\begingroup\scriptsize\setlength{\tabcolsep}{3pt}"
    yield rf"\begin{{longtable}}{{@{{}}{''.join(ALIGNED.get(one, 'r') for one in columns)}@{{}}}}"
    heading = " & ".join(HEADINGS.get(column, _tex(column)) for column in columns)
    yield rf"\toprule {heading} \\ \midrule \endfirsthead"
    yield rf"\toprule {heading} \\ \midrule \endhead"
    yield rf"\midrule \multicolumn{{{len(columns)}}}{{r}}{{continued}} \\ \endfoot"
    yield r"\bottomrule \endlastfoot"


def _body(board: pd.DataFrame, columns: Sequence[str]) -> Iterator[str]:
    decimals = decimals_of(own_metrics(board).values())
    for number, (names, rows) in enumerate(board.groupby(GROUP, sort=False)):
        dataset, backbone, split_point, seed = (_tex(name) for name in names)
        seeds = "all seeds" if seed == "all" else f"seed {seed}"
        yield r"\addlinespace" if number else "%"
        title = f"{dataset}, {backbone} split at {split_point}, {seeds}"
        yield rf"\multicolumn{{{len(columns)}}}{{l}}{{\emph{{{title}}}}} \\*"
        short = short_arguments(rows)
        for row in rows.to_dict("records"):
            cells = (
                _cell({str(key): value for key, value in row.items()}, one, short, board, decimals) for one in columns
            )
            yield " & ".join(cells) + r" \\"


def _foot(board: pd.DataFrame) -> Iterator[str]:
    yield r"\end{longtable}"
    yield r"\endgroup"
    for line in caveats(board):
        yield f"% {clean(line)}"


def _cell(
    row: Mapping[str, Any],
    column: str,
    short: Mapping[tuple[str, str], str],
    board: pd.DataFrame,
    decimals: Mapping[str, int],
) -> str:
    if row["attack"] == FLOOR and column in ("defense", "attacker"):
        return FLOOR if column == "defense" else ""
    if column == "defense":
        name = label_for(board, str(row["defense"]))
        marked = {"measured": ""}.get(row["origin"], f" ({row['origin']})")
        return _tex(f"{name} {short[row['defense'], row['defense_args']]}".strip() + marked)
    if column == "attacker":
        return _tex(granted(row) if row["attack"] == WORST_CASE else f"{row['attack']} ({granted(row)})")
    value = row[column]
    if column not in decimals:
        return "" if pd.isna(value) else _tex(str(value))
    if pd.isna(value):
        return "--"
    shown = _number(value, column, decimals)
    if column not in WITH_INTERVAL or pd.isna(row[f"{column}_low"]):
        return shown
    low, high = (_number(row[f"{column}{end}"], column, decimals) for end in ("_low", "_high"))
    return f"{shown} [{low}, {high}]"


def _number(value: float, column: str, decimals: Mapping[str, int]) -> str:
    if column in PERCENT:
        return f"{100 * value:.1f}" if column.startswith("accuracy") else f"{100 * value:.0f}"
    return f"{value:.{DECIMALS.get(column, decimals[column])}f}"


def _tex(text: object) -> str:
    """Text as LaTeX prints it; what would be a command is none."""
    return "".join(TEX.get(sign, sign) for sign in clean(text))
