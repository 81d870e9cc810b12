"""Two reports side by side: the same setting and attacker in both, and what differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dpbench.report.content import Cell, Column, Gallery, Line, Report, Table

KEY = (
    *("dataset", "backbone", "split_point", "receiver", "senders", "condition", "defense", "defense_args"),
    *("threat_model", "auxiliary", "releases", "budget", "server", "seed", "origin"),
)
"""Titles of columns that tell what a line is about, where a table has them."""

Turn = Literal["worse", "better", ""]

MORE: dict[str, Turn] = {
    "accuracy": "better",
    "recovered?": "worse",
    "re-identified": "worse",
    "label read": "worse",
}
"""Title of a column -> what more of it is; of others that cannot be said here."""

LESS: dict[Turn, Turn] = {"better": "worse", "worse": "better", "": ""}


@dataclass(frozen=True)
class Difference:
    """A figure in two runs.

    Attributes:
        one: as the first run has it; None where it has no such line.
        other: likewise.
        change: from the first to the second, in words; empty where there is none to name.
        turn: whether that is worse or better for whoever is in the pictures, or uses the predictions.
    """

    one: Cell | None
    other: Cell | None
    change: str
    turn: Turn


@dataclass(frozen=True)
class Pair:
    """A line of either table or of both."""

    line: Line
    group: str
    figures: Sequence[Difference]


@dataclass(frozen=True)
class Comparison:
    """Two tables set side by side.

    Attributes:
        columns: those of the figures.
        pairs: in the order of the first table; then what the second alone has.
        galleries: title -> of the first, of the second; None where a run has none of it.
    """

    columns: Sequence[Column]
    pairs: Sequence[Pair]
    galleries: Sequence[tuple[str, Gallery | None, Gallery | None]]


def compare(one: Report, other: Report) -> Comparison:
    """Set two reports side by side, which are of one protocol."""
    known, others = _by_name(one.table), _by_name(other.table)
    figures = [place for place, column in enumerate(one.table.columns) if column.main][1:]
    columns = [one.table.columns[place] for place in figures]
    pairs = []
    for name in dict.fromkeys([*known, *others]):
        first, second = known.get(name), others.get(name)
        line = first or second
        assert line is not None
        told = [
            _difference(columns[number], first.cells[place] if first else None, second.cells[place] if second else None)
            for number, place in enumerate(figures)
        ]
        pairs.append(Pair(line, line.group, told))
    titles = dict.fromkeys(gallery.title for report in (one, other) for gallery in report.galleries)
    galleries = [(title, _titled(one, title), _titled(other, title)) for title in titles]
    return Comparison(columns, pairs, galleries)


def _titled(report: Report, title: str) -> Gallery | None:
    return next((gallery for gallery in report.galleries if gallery.title == title), None)


def _by_name(table: Table) -> dict[tuple[str, ...], Line]:
    places = {column.title: place for place, column in enumerate(table.columns)}  # the last of a title counts
    named = [places[title] for title in KEY if title in places] or [
        place for place, column in enumerate(table.columns) if not column.numeric
    ]
    return {tuple(line.cells[place].text for place in named): line for line in table.lines}


def _difference(column: Column, one: Cell | None, other: Cell | None) -> Difference:
    if one is None or other is None or one.order is None or other.order is None:
        return Difference(one, other, "", "")
    change = other.order - one.order
    if change != change:
        return Difference(one, other, "", "")
    share = "%" in one.text or "%" in other.text
    text = f"{100 * change:+.1f} points" if share else f"{change:+.2f}"
    if text.strip("+-0. points") == "":
        return Difference(one, other, "same", "")
    more = MORE.get(column.title, "")
    return Difference(one, other, text, more if change > 0 else LESS[more])
