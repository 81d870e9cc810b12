"""A yes or no by limits of one's own: does what was measured stay within them?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import pandas as pd

from dpbench.board.columns import CELLS, WORST_CASE, Layout
from dpbench.errors import DpbenchError
from dpbench.text.shown_text import clean

UNDEFENDED = "none"
SHORT = 24
"""Characters of the parameters of a defense that is the only one of its name."""


@dataclass(frozen=True)
class Limit:
    """The most, or the least, that a figure may be.

    Attributes:
        column: of the board.
        said: in the verdict: `re-identified`.
        share: whether it is shown in percent.
        least: whether it must not be lower, rather than not higher.
        value: the limit.
    """

    column: str
    said: str
    share: bool
    least: bool
    value: float

    def shown(self, value: float) -> str:
        """A figure as it is shown beside the limit; never rounded onto it."""
        text = f"{value:.0%}" if self.share else f"{value:.2f}"
        same = f"{self.value:.0%}" if self.share else f"{self.value:.2f}"
        if text == same and value != self.value:
            return f"{value:.2%}" if self.share else f"{value:.4f}"
        return text

    def holds(self, value: float) -> bool:
        """Whether a figure stays within it; one that is not there does not."""
        return value >= self.value if self.least else value <= self.value

    def excess(self, value: float) -> float:
        """By how much a figure is beyond it; infinite where there is none."""
        return math.inf if math.isnan(value) else (self.value - value if self.least else value - self.value)


KINDS: dict[str, tuple[str, str, bool, bool]] = {
    "max_ssim": ("ssim", "SSIM", False, False),
    "max_reid": ("reid_top1", "re-identified", True, False),
    "max_leakage": ("leakage", "leakage", False, False),
    "max_label_read": ("label_read", "label read", True, False),
    "min_accuracy": ("accuracy", "accuracy", True, True),
}
"""Option -> column, what it is called, whether it is a share, whether it is the least."""


def limits(given: Mapping[str, float | None]) -> list[Limit]:
    """Option -> value, of those of `KINDS` that are given.

    Raises:
        DpbenchError: none is, or one is no number that its figure could have.
    """
    found = [Limit(*KINDS[name], value) for name, value in given.items() if value is not None]
    if not found:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in KINDS)
        raise DpbenchError(f"no limit given: a gate without one would always pass; give one of {options}")
    for name, value in given.items():
        if value is not None and not 0 <= value <= 1:
            raise DpbenchError(f"--{name.replace('_', '-')} {value}: expected a number from 0 to 1")
    return found


@dataclass(frozen=True)
class Judged:
    """One figure beside its limit.

    Attributes:
        setting: what it is of, in words.
        figure: what it is called.
        value: None where there is none.
        limit: the most, or the least, allowed.
        holds: whether it stays within.
        said: in words.
    """

    setting: str
    figure: str
    value: float | None
    limit: float
    holds: bool
    said: str


@dataclass(frozen=True)
class Verdict:
    """Yes or no, and why.

    Attributes:
        judged: every figure, the furthest beyond its limit first.
        settings: how many were judged.
        undefended: how many rows of undefended models were left aside.
    """

    judged: list[Judged]
    settings: int
    undefended: int

    @property
    def answer(self) -> Literal["YES", "NO"]:
        """Whether all figures stay within their limits."""
        return "YES" if all(one.holds for one in self.judged) else "NO"

    @property
    def line(self) -> str:
        """`NO: layer1, gaussian std=1.0: re-identified 100%, limit 10%`."""
        beyond = [one for one in self.judged if not one.holds]
        if not beyond:
            return f"YES: {self.settings} settings stay within {len({one.figure for one in self.judged})} limits"
        more = f"; and {len(beyond) - 1} more" if len(beyond) > 1 else ""
        return clean(f"NO: {beyond[0].setting}: {beyond[0].said}{more}")

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {"verdict": self.answer, "line": self.line, "judged": [asdict(one) for one in self.judged]}


def judge(board: pd.DataFrame, layout: Layout, allowed: list[Limit], *, defense: str = "*") -> Verdict:
    """Judge every worst case of every defended setting; a figure that is not there is beyond its limit.

    Undefended models are left aside, unless there is nothing else or `defense` names them. Rows whose attacks failed
    or are not calibrated say nothing, and so are beyond every limit on what leaks.

    Args:
        board: of one protocol.
        layout: how it names its rows.
        allowed: the limits.
        defense: a shell pattern on the name of the defense, or the name with its parameters.

    Raises:
        DpbenchError: there is nothing to judge.
    """
    rows = _worst(board, layout)
    names = {str(name) for name in rows["defense"]}
    plain = defense == "*"
    rows = [row for row in rows.to_dict("records") if _picked(row, defense)]
    if not rows:
        known = f"its defenses: {', '.join(sorted(names))}" if names else "it has no worst case"
        raise DpbenchError(f"nothing to judge: no setting matches {defense!r}; {known}")
    defended = [row for row in rows if row["defense"] != UNDEFENDED]
    chosen = defended if plain and defended else rows
    splits = len({row["backbone"] for row in chosen}) > 1
    judged = [
        (limit.excess(_value(row, limit)), _judged(row, limit, chosen, splits)) for row in chosen for limit in allowed
    ]
    judged.sort(key=lambda one: (one[1].holds, -one[0]))
    settings = {(row["backbone"], row["split_point"], row["defense"], row["defense_args"]) for row in chosen}
    return Verdict(
        list({(one.setting, one.figure, one.said): one for _, one in judged}.values()),
        len(settings),
        len(rows) - len(chosen),
    )


def _worst(board: pd.DataFrame, layout: Layout) -> pd.DataFrame:
    if layout is CELLS:
        rows = board[board["attack"] == WORST_CASE]
        rows = rows[rows["origin"] != "claimed"] if "origin" in rows else rows
        together = rows.groupby(["dataset", "backbone", "split_point", "defense", "defense_args"])["seed"].transform(
            lambda seeds: (seeds.astype(str) == "all").any()
        )
        return rows[~together.astype(bool) | (rows["seed"].astype(str) == "all")]
    if "condition" in board:
        return board[board["condition"] == "defended-features"]
    raise DpbenchError("limits are judged on boards of cells and of sharing suites; compare others with dpbench check")


def _picked(row: Mapping[Any, Any], pattern: str) -> bool:
    whole = f"{row['defense']} {row['defense_args']}".strip()
    return fnmatchcase(str(row["defense"]), pattern) or fnmatchcase(whole, pattern)


def _value(row: Mapping[Any, Any], limit: Limit) -> float:
    value = row.get(limit.column)
    if not limit.least and row.get("status") in ("failed", "unreliable", "incomplete"):
        return math.nan
    return math.nan if value is None or pd.isna(value) else float(value)


def _judged(row: Mapping[Any, Any], limit: Limit, rows: list[dict[Any, Any]], several: bool) -> Judged:
    value = _value(row, limit)
    if math.isnan(value):
        why = "no figure" if row.get("status") == "ok" else f"its attacks are {row.get('status')}: no figure to rely on"
        said = f"{limit.said}: {why}"
    else:
        said = f"{limit.said} {limit.shown(value)}"
    limited = f"{limit.value:.4g}" if not limit.share else f"{100 * limit.value:.4g}%"
    setting = f"{row['backbone']} {row['split_point']}" if several else str(row["split_point"])
    name = f"{setting}, {_named(row, rows)}"
    return Judged(
        clean(name),
        limit.column,
        None if math.isnan(value) else value,
        limit.value,
        limit.holds(value),
        f"{said}, limit {limited}",
    )


def _named(row: Mapping[Any, Any], rows: list[dict[Any, Any]]) -> str:
    others = {one["defense_args"] for one in rows if one["defense"] == row["defense"]}
    arguments = str(row["defense_args"])
    return f"{row['defense']} {arguments if len(others) > 1 or len(arguments) <= SHORT else ''}".strip()
