"""A longtable of LaTeX for an article to input: headings on every page, rows in groups, few decimals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dpbench.machine.writing import write_atomically
from dpbench.metrics.table import BUILT_IN
from dpbench.text.shown_text import clean

HEADINGS = {
    "defense": "Defense",
    "attacker": "Attacker",
    "condition": "Trained on",
    "accuracy": r"Top-1/\%",
    "accuracy_drop": r"Drop/\%",
    "gain": "Gain/points",
    "share_kept": r"Kept/\%",
    "reid_top1": r"Re-id/\%",
    "identity_top1": r"Person/\%",
    "link_top1": r"Link/\%",
    "label_read": r"Read/\%",
    "leakage": "Leakage",
    **{name: metric.label for name, metric in BUILT_IN.items()},
}
"""Column -> its heading, where that is not its name."""

PERCENT = {
    **dict.fromkeys(("accuracy", "accuracy_drop", "accuracy_top5", "gain", "public_accuracy"), 1),
    **dict.fromkeys(("reid_top1", "reid_top5", "identity_top1", "link_top1", "label_read", "share_kept"), 0),
}
"""Shares that a paper gives in percent -> decimals."""

DECIMALS = {"ssim": 2, "lpips": 2, "psnr_db": 1, "leakage": 2}
"""Figures that a paper wants with fewer decimals than a board has."""

WIDE = r">{\raggedright\arraybackslash}p{2.4cm}"
"""How a column of names stands that are broken into lines."""

ALIGNED = {"defense": WIDE, "condition": WIDE, "attacker": "l"}
"""Column -> how it stands, where that is not to the right: eight of them fit the page of an article."""

WITH_INTERVAL = ("leakage", "gain")

TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{sign: f"{{{sign}}}" for sign in "[*"},  # after the end of a row it takes these for its own
}

Group = tuple[str, Sequence[Sequence[str]]]
"""What stands above rows, and their cells, as LaTeX."""


def write_longtable(path: Path, columns: Sequence[str], groups: Iterable[Group], notes: Sequence[str] = ()) -> None:
    """Write a table, whole or not at all.

    Args:
        path: ends in .tex.
        columns: of the board.
        groups: in order.
        notes: what a reader of the file must know; comments below the table.
    """
    text = "\n".join([*_head(columns), *_body(groups, len(columns)), *_foot(notes)])
    write_atomically(path, lambda file: file.write_text(f"{text}\n", encoding="utf-8", newline="\n"))


def _head(columns: Sequence[str]) -> Iterator[str]:
    yield r"% needs \usepackage{array,booktabs,longtable}"
    yield r"\begingroup\scriptsize\setlength{\tabcolsep}{3pt}"
    yield rf"\begin{{longtable}}{{@{{}}{''.join(ALIGNED.get(one, 'r') for one in columns)}@{{}}}}"
    heading = " & ".join(HEADINGS.get(column, tex(column)) for column in columns)
    yield rf"\toprule {heading} \\ \midrule \endfirsthead"
    yield rf"\toprule {heading} \\ \midrule \endhead"
    yield rf"\midrule \multicolumn{{{len(columns)}}}{{r}}{{continued}} \\ \endfoot"
    yield r"\bottomrule \endlastfoot"


def _body(groups: Iterable[Group], width: int) -> Iterator[str]:
    for number, (title, rows) in enumerate(groups):
        yield r"\addlinespace" if number else "%"
        yield rf"\multicolumn{{{width}}}{{l}}{{\emph{{{title}}}}} \\*"
        for cells in rows:
            yield " & ".join(cells) + r" \\"


def _foot(notes: Sequence[str]) -> Iterator[str]:
    yield r"\end{longtable}"
    yield r"\endgroup"
    for line in notes:
        yield f"% {clean(line)}"


def figure(row: Mapping[str, Any], column: str, decimals: Mapping[str, int]) -> str:
    """A value of a board as a paper writes it: percent, few decimals, with its interval where that matters most.

    Args:
        row: of the board.
        column: of the board.
        decimals: column -> those of the board, of every column that holds figures.
    """
    value = row[column]
    if column not in decimals:
        return "" if pd.isna(value) else tex(str(value))
    if pd.isna(value):
        return "--"
    shown = _number(value, column, decimals)
    if column not in WITH_INTERVAL or pd.isna(row[f"{column}_low"]):
        return shown
    low, high = (_number(row[f"{column}{end}"], column, decimals) for end in ("_low", "_high"))
    return f"{shown} [{low}, {high}]"


def _number(value: float, column: str, decimals: Mapping[str, int]) -> str:
    if column in PERCENT:
        return f"{100 * value:.{PERCENT[column]}f}"
    return f"{value:.{DECIMALS.get(column, decimals[column])}f}"


def tex(text: object) -> str:
    """Text as LaTeX prints it; what would be a command is none."""
    return "".join(TEX.get(sign, sign) for sign in clean(text))
