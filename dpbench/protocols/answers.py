"""The answer of a board of cells in plain words: what comes back, and what the best defense costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dpbench.board.columns import FLOOR, WORST_CASE
from dpbench.contract.threat import UNDEFENDED
from dpbench.report.content import Tone
from dpbench.report.levels import broken, decimal, level_of, number, percent
from dpbench.reporting.selection import PANEL, _main, _of_tier, short_arguments, strongest

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
    """

    title: str
    split: str
    rows: pd.DataFrame
    shown: pd.DataFrame
    floor: Mapping[Any, Any] | None

    def name(self, row: Mapping[Any, Any]) -> str:
        """A setting in few words."""
        return f"{row['defense']} {short_arguments(self.rows)[row['defense'], row['defense_args']]}".strip()


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
        found.append(Panel(title, split, rows, _headlines(rows), floor[0] if floor else None))
    return found


def _headlines(rows: pd.DataFrame) -> pd.DataFrame:
    """The worst case of each setting under the strongest attacker that is common, else under its own strongest."""
    worst = rows[rows["attack"] == WORST_CASE]
    if worst.empty:
        return worst
    main = _main(rows)
    chosen = []
    for _, own in worst.groupby(["defense", "defense_args"], sort=False):
        of_main = own[_of_tier(own, main)]
        chosen.append(strongest(of_main if len(of_main) else own))
    return pd.concat(chosen)[list(rows.columns)]


def judged(panel: Panel) -> list[dict[Any, Any]]:
    """The defended settings of which something can be said."""
    rows = panel.shown[(panel.shown["defense"] != UNDEFENDED) & (panel.shown["status"] != "failed")]
    return [row for row in rows.to_dict("records") if not math.isnan(number(row, "ssim"))]


def verdict(panels: Sequence[Panel]) -> tuple[str, Tone]:
    """The answer in a sentence, over all panels."""
    known = [(panel, row) for panel in panels for row in judged(panel)]
    got_through = sum(broken(row, panel.floor) for panel, row in known)
    if not known:
        bare = [
            (panel, row)
            for panel in panels
            for row in panel.shown[panel.shown["defense"] == UNDEFENDED].to_dict("records")
            if not math.isnan(number(row, "ssim"))
        ]
        if not bare:
            return "Nothing was measured: no attack finished.", "open"
        through = sum(broken(row, panel.floor) for panel, row in bare)
        if len(bare) == 1:
            return ("Without a defense, the features give their images away.", "bad") if through else (_HELD, "good")
        text = f"Without a defense, the features give their images away at {through} of {len(bare)} places tested."
        return text, "bad" if through == len(bare) else "mixed"
    if got_through == len(known):
        every = (
            "The defense tested was broken." if len(known) == 1 else f"All {len(known)} defenses tested were broken."
        )
        return every, "bad"
    if got_through:
        return f"{got_through} of {len(known)} defenses tested were broken.", "mixed"
    if len(known) == 1:
        return "The defense tested was not broken by these attacks. That is not proof of privacy.", "good"
    return f"None of {len(known)} defenses tested was broken by these attacks. That is not proof of privacy.", "good"


_HELD = "Nothing came back by these attacks. That is not proof of privacy."


def answer(panel: Panel, *, alone: bool) -> list[str]:
    """Two or three sentences on one panel; where it is not alone, the first says which it is."""
    bare = panel.shown[panel.shown["defense"] == UNDEFENDED].to_dict("records")
    place = f"Split at {panel.split}" if alone else f"{panel.title},"
    if bare:
        parts = [f"{place} without a defense: {told(bare[0], panel.floor)}."]
    else:
        parts = [f"{place}: the undefended network was not measured, so that costs cannot be named."]
    total = len(panel.shown) - len(bare)
    defended = judged(panel)
    if not total:
        return [*parts, "No defense was tested."]
    if len(defended) < total:
        missing = total - len(defended)
        parts.append(f"Of {missing} of {total} defenses nothing can be said: their attacks failed.")
    affordable = [row for row in defended if number(row, "accuracy_drop") < AFFORDABLE]
    best = min(affordable, key=lambda row: _rank(row, panel.floor), default=None)
    found = f"none of the {len(defended)} tested" if best is None else f"{panel.name(best)}; {told(best, panel.floor)}"
    parts.append(f"Best defense that loses under 5 points of accuracy: {found}.")
    least = min(defended, key=lambda row: _rank(row, panel.floor), default=None)
    if least is not None and least is not best:
        cost = number(least, "accuracy_drop")
        price = "" if math.isnan(cost) else f", for {100 * cost:.0f} points of accuracy"
        parts.append(f"What leaks least is {panel.name(least)}{price}; {told(least, panel.floor)}.")
    return parts


def _rank(row: Mapping[Any, Any], floor: Mapping[Any, Any] | None) -> tuple[bool, float]:
    leakage = number(row, "leakage")
    return broken(row, floor), number(row, "ssim") if math.isnan(leakage) else leakage


def told(row: Mapping[Any, Any], floor: Mapping[Any, Any] | None) -> str:
    """`images come back (SSIM 0.96), 100% of the victims re-identified`."""
    level = level_of(row, floor)
    named = number(row, "reid_top1")
    known = "" if math.isnan(named) else f", {percent(named)} of the victims re-identified"
    kinds = {
        "incomplete": "; an attack failed, it could only be worse",
        "unreliable": "; the attacks are not calibrated",
    }
    return f"{level.said} (SSIM {decimal(number(row, 'ssim'))}){known}{kinds.get(str(row['status']), '')}"
