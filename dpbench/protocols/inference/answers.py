"""The answer of a board of cells in plain words: what comes back, and what the best defense costs."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dpbench.board.columns import FLOOR, headline_of
from dpbench.contract.threat import UNDEFENDED
from dpbench.report import verdicts
from dpbench.report.content import Answer, Tone
from dpbench.report.levels import against, broken, number, told
from dpbench.report.verdicts import Standing, points
from dpbench.reporting.selection import PANEL, headlines, short_arguments

AFFORDABLE = 0.05
"""Loss of accuracy that a reader may be ready to pay: five points."""


@dataclass(frozen=True)
class Panel:
    """One data set, backbone, split point and seed of a board.

    Attributes:
        title: in words.
        split: of the network.
        rows: all of it.
        shown: of each setting the worst case of the strongest attacker.
        floor: the best blind guess; None where there is none.
        short: (defense, `defense_args`) -> the parameters that tell a setting from the others.
    """

    title: str
    split: str
    rows: pd.DataFrame
    shown: pd.DataFrame
    floor: Mapping[Any, Any] | None
    short: Mapping[tuple[str, str], str]

    def name(self, row: Mapping[Any, Any]) -> str:
        """A setting in few words."""
        return f"{row['defense']} {self.short[row['defense'], row['defense_args']]}".strip()

    def told(self, row: Mapping[Any, Any]) -> str:
        """What comes back of a setting, see `dpbench.report.levels.told`."""
        return told(row, self.floor, headline=headline_of(self.rows))

    @functools.cached_property
    def bare(self) -> dict[Any, Any] | None:
        """The worst case of the undefended network; None where no attack on it finished, and all are blind guesses."""
        rows = self.shown[(self.shown["defense"] == UNDEFENDED) & self.shown["ssim"].notna()]
        rows = rows[rows["ensemble"] != ""]
        return rows.to_dict("records")[0] if len(rows) else None

    @functools.cached_property
    def defended(self) -> list[dict[Any, Any]]:
        """The worst case of every defended setting, failed ones too."""
        return list(self.shown[self.shown["defense"] != UNDEFENDED].to_dict("records"))

    @property
    def telling(self) -> bool:
        """Whether the attacks work where nothing defends: else what they do not recover says nothing."""
        return self.bare is not None and broken(self.bare, self.floor)

    def standing(self, row: Mapping[Any, Any]) -> Standing:
        """How a setting stands, see `dpbench.report.verdicts`."""
        return verdicts.standing(row, self.floor, telling=self.telling)


def panels_of(board: pd.DataFrame) -> list[Panel]:
    """What was measured here; of several seeds all together, where the board has rows of that."""
    measured = board[board["origin"] == "measured"] if "origin" in board else board
    measured = measured if len(measured) else board
    together = measured.groupby(list(PANEL[:3]))["seed"].transform(lambda seeds: (seeds == "all").any()).astype(bool)
    kept = measured[~together | (measured["seed"] == "all")]
    seeds = kept["seed"].nunique() > 1
    found = []
    for names, rows in kept.groupby(list(PANEL), sort=False):
        dataset, backbone, split, seed = (str(name) for name in names)
        told = ", all seeds" if seed == "all" else f", seed {seed}" if seeds else ""
        floor = rows[rows["attack"] == FLOOR].to_dict("records")
        title = f"{dataset}, {backbone} split at {split}{told}"
        short = short_arguments(rows)
        rows = light(rows)
        found.append(Panel(title, split, rows, headlines(rows), floor[0] if floor else None, short))
    return found


def light(board: pd.DataFrame) -> pd.DataFrame:
    """The same without the arguments beside it, which pandas copies, all of them, whenever it takes a row."""
    board = board.copy()
    board.attrs = {}
    return board


def verdict(panels: Sequence[Panel]) -> tuple[str, Tone]:
    """The answer in a sentence or two, over all panels."""
    rows = [(panel, row) for panel in panels for row in panel.defended]
    if not rows:
        return verdicts.undefended([panel.standing(panel.bare) for panel in panels if panel.bare is not None])
    unaware = {row["threat_model"] for _, row in rows} == {"static"}
    return verdicts.verdict([panel.standing(row) for panel, row in rows], unaware=unaware, why=_why(rows))


def _why(rows: Sequence[tuple[Panel, Mapping[Any, Any]]]) -> str:
    """Why nothing can be said of any defense."""
    if all(math.isnan(number(row, "ssim")) for _, row in rows):
        return "the attacks failed"
    if all(panel.bare is None for panel, _ in rows):
        return "the undefended network was not measured, so that nobody knows whether these attacks work at all"
    if not any(panel.telling for panel, _ in rows):
        return "these attacks recover too little even without a defense"
    return "attacks failed, or recover too little even without a defense"


def answers(panels: Sequence[Panel]) -> list[Answer]:
    """What the verdict rests on, place by place; against whom is said once where it is the same everywhere."""
    given = [answer(panel, alone=len(panels) == 1) for panel in panels]
    whom = {tuple(_attacker(panel)) for panel in panels}
    if len(panels) < 2 or len(whom) > 1:
        return given
    [lines] = whom
    shared = [line.replace("attacker here", "attacker at every place") for line in lines]
    rest = [Answer(one.place, one.lines[: len(one.lines) - len(lines)]) for one in given]
    return [Answer(rest[0].place, [*rest[0].lines, *shared]), *rest[1:]]


def answer(panel: Panel, *, alone: bool) -> Answer:
    """What the verdict rests on in one panel; `alone`: the place stands in the sentence and needs no heading."""
    place = f"Split at {panel.split} without a defense" if alone else "Without a defense"
    bare = "not measured" if panel.bare is None else panel.told(panel.bare)
    parts = [f"{place}: {bare}."]
    if panel.bare is not None and not panel.telling and panel.defended:
        parts.append("These attacks recover too little even there: low figures say nothing about a defense.")
    parts += _of_defenses(panel)
    return Answer("" if alone else panel.title, [*parts, *_attacker(panel)])


def _of_defenses(panel: Panel) -> list[str]:
    measured = [row for row in panel.defended if not math.isnan(number(row, "ssim"))]
    failed = len(panel.defended) - len(measured)
    parts = []
    if failed:
        parts.append(
            f"Of {failed} of {len(panel.defended)} defense settings nothing can be said: their attacks failed."
        )
    if not measured:
        return parts
    cost = {id(row): number(row, "accuracy_drop") for row in measured}
    if all(math.isnan(one) for one in cost.values()):
        parts.append("What a defense costs is not known: the accuracy of the undefended network was not measured.")
    rank = _ranking(panel, measured)
    affordable = [row for row in measured if cost[id(row)] < AFFORDABLE]
    best = min(affordable, key=rank, default=None)
    least = min(measured, key=rank)
    if best is not None:
        held = panel.standing(best) == "held"
        head = "Best defense" if held else "No defense was found to hold"
        head += " that loses under 5 points of accuracy" if held else " for under 5 points of accuracy"
        found = f": {panel.name(best)}" if held else f". The best of them, {panel.name(best)}"
        parts.append(f"{head}{found} ({points(-cost[id(best)])}): {panel.told(best)}.")
    elif not all(math.isnan(one) for one in cost.values()):
        parts.append("Best defense that loses under 5 points of accuracy: none.")
    if least is not best:
        price = "" if math.isnan(cost[id(least)]) else f" ({points(-cost[id(least)])})"
        parts.append(f"What leaks least, whatever it costs, is {panel.name(least)}{price}: {panel.told(least)}.")
    return parts


def _ranking(panel: Panel, rows: Sequence[Mapping[Any, Any]]) -> Any:
    """What leaks less comes first: what holds; then by leakage where all have the same kind of it, else by SSIM."""
    kinds = {str(row.get("leakage_metrics") or "") for row in rows}
    column = "leakage" if len(kinds) == 1 and not any(math.isnan(number(row, "leakage")) for row in rows) else "ssim"
    order = ("held", "open", "named", "seen")
    return lambda row: (order.index(panel.standing(row)), number(row, column), number(row, "reid_top1"))


def _attacker(panel: Panel) -> list[str]:
    """Against whom these figures are."""
    whom = list(dict.fromkeys(against(row) for row in panel.shown.to_dict("records")))
    if not whom:
        return []
    parts = [f"The strongest attacker here {'; or '.join(whom[:3])}."]
    if panel.defended and {row["threat_model"] for row in panel.defended} == {"static"}:
        parts = [f"{parts[0]} Nobody who knows the defense attacked."]
    if (panel.rows["origin"] == "claimed").all():
        parts.append("These are figures that others claim: they were not measured again.")
    return parts
