"""Defenses at equal accuracy: Pareto fronts, what they enclose, and leakage read off where as much accuracy is lost.

The settings of a defense trace a curve of leakage against accuracy lost. All is derived from worst cases of the
strongest attacker, within one dataset, backbone, split point and seed: there leakage has one scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dpbench.board.caveats import metrics_of
from dpbench.board.columns import CELL_LAYOUT, LOSSES, READINGS, WORST_CASE, Row, arguments_of, tidy, with_arguments
from dpbench.board.leakage import leakage, together
from dpbench.board.rows import BoardRow
from dpbench.contract.threat import THREAT_MODELS, UNDEFENDED
from dpbench.metrics.intervals import Floats, bounds, over_seeds, resampled_shares

Point = tuple[float, float]
"""Two figures of a setting of which less is better: what it costs, and what it leaks."""

REFERENCE: Point = (0.1, 1.0)
"""Where the hypervolume ends: 10 points of accuracy lost, and the leakage of the undefended model."""

WITHIN = 0.05
"""Settings that lose more accuracy take no part in the front of costs: noise is cheap."""

SCOPE = ["dataset", "backbone", "split_point", "seed"]


def front(points: Sequence[Point]) -> list[int]:
    """Places of the points that no other beats, by rising cost: none costs and leaks no more, and one of them less.

    Points that are equal stand or fall together; a point that is no number is never on the front.
    """
    known = [place for place, point in enumerate(points) if not np.isnan(point).any()]
    found: list[int] = []
    for place in sorted(known, key=lambda one: points[one]):
        if not found or points[place][1] < points[found[-1]][1] or points[place] == points[found[-1]]:
            found.append(place)
    return found


def hypervolume(points: Sequence[Point], reference: Point = REFERENCE) -> float:
    """The share, in [0, 1], of the rectangle from (0, 0) to the reference in which some point beats whatever is there.

    With accuracy lost and leakage: one minus the least leakage within a budget of accuracy, averaged over all budgets
    up to the reference's. 0 where no setting stays within it; gains of accuracy count as no loss.
    """
    width, height = reference
    held = [(max(0.0, points[place][0]), points[place][1]) for place in front(points)]
    held = [(cost, leak) for cost, leak in held if cost < width and leak < height]
    ends = [*(cost for cost, _ in held[1:]), width]
    area = sum((end - cost) * (height - max(0.0, leak)) for (cost, leak), end in zip(held, ends, strict=bool(held)))
    return area / (width * height)


def read_off(points: Sequence[Point], cost: float) -> float | None:
    """The leakage to be had for this cost: linear between neighbours on the front, and of the last setting beyond it.

    None where every setting costs more.
    """
    chain = [points[place] for place in front(points)]
    if not chain or cost < chain[0][0]:
        return None
    costs, leaks = zip(*chain, strict=True)
    return float(np.interp(cost, costs, leaks))


@dataclass(frozen=True)
class Drawn:
    """A setting in each resample: accuracy lost and leakage, (RESAMPLES,) each, and over how many victims."""

    loss: Floats
    leak: Floats
    images: int


def interval_at(points: Sequence[Point], drawn: Sequence[Drawn], cost: float) -> tuple[float, float]:
    """The 95% interval of `read_off`: test images and victims are resampled, and with them both ends of each segment.

    A resample in which the curve begins or ends elsewhere counts with that end.

    Args:
        points: as for `read_off`, which has a figure at this cost.
        drawn: of each point.
        cost: accuracy lost, as a share.

    Returns:
        Within [0, 1]; both ends NaN for a single victim.
    """
    mean = read_off(points, cost)
    if mean is None:
        return np.nan, np.nan
    chain = front(points)
    losses, leaks = (np.stack([getattr(drawn[place], name) for place in chain], axis=1) for name in ("loss", "leak"))
    order = np.argsort(losses, axis=1, kind="stable")
    losses, leaks = np.take_along_axis(losses, order, axis=1), np.take_along_axis(leaks, order, axis=1)
    read = np.array([np.interp(cost, *curve) for curve in zip(losses, leaks, strict=True)])
    low, high = bounds(read, mean, min(drawn[place].images for place in chain))
    return max(low, 0.0), min(high, 1.0)


def drawn_of(row: BoardRow) -> Drawn | None:
    """A row's accuracy lost and leakage in each resample; None where one of the two was not measured."""
    scaled = together([sample.scaled for sample in row.samples if sample.scaled is not None])
    known = [sample for sample in row.samples if sample.correct and sample.undefended_correct]
    if not scaled or not known:
        return None
    shares = resampled_shares([one.correct for one in known] + [one.undefended_correct for one in known])
    losses = [before - after for after, before in zip(shares[: len(known)], shares[len(known) :], strict=True)]
    images = len({victim for one in scaled for victim in one.victims})
    return Drawn(over_seeds(losses), over_seeds(leakage(scaled)[1]), images)


def of_one_leakage(panel: pd.DataFrame) -> pd.DataFrame:
    """Rows whose leakage is made of the same metrics as the undefended model's, or as most: one axis, one meaning."""
    if "leakage_metrics" not in panel:
        return panel
    named = panel["leakage_metrics"].map(lambda label: " ".join(metrics_of(label)))
    reference = named[(panel["defense"] == UNDEFENDED) & (named != "")]
    candidates = reference if len(reference) else named[named != ""]
    return panel[named == candidates.mode().iloc[0]] if len(candidates) else panel


def strongest_worst_cases(board: pd.DataFrame) -> pd.DataFrame:
    """Of each setting the worst case of the strongest attacker: with images like the victims', and the most releases.

    Settings that were not attacked under the strongest threat model of their scope are left out, and those that
    others only claim.
    """
    worst = board[(board["attack"] == WORST_CASE) & (board["origin"] != "claimed")]
    if worst.empty:
        return worst
    threat = worst["threat_model"].map(THREAT_MODELS.index)
    kept = worst.assign(threat=threat, same=worst["auxiliary"] == "same")
    kept = kept.assign(holds_server=kept["server"] == "" if "server" in kept else True)
    scopes = kept.groupby(SCOPE)
    kept = kept[
        (kept["threat"] == scopes["threat"].transform("max")) & (kept["same"] == scopes["same"].transform("max"))
    ]
    kept = kept.sort_values(["holds_server", "releases"], kind="stable")
    return worst.loc[
        kept.drop_duplicates([*SCOPE, "origin", "defense", "defense_args"], keep="last").index.sort_values()
    ]


def compared(board: pd.DataFrame) -> pd.DataFrame:
    """Rows that can be set against each other: finished, nothing failed or in doubt, one leakage, a known loss.

    A worst case that lacks an attack could only leak more: it must not win for that.
    """
    rows = strongest_worst_cases(board)
    rows = rows[(rows["status"] == "ok") & rows["leakage"].notna() & rows["accuracy_drop"].notna()]
    return pd.concat([rows[:0], *(of_one_leakage(scope) for _, scope in rows.groupby(SCOPE, sort=False))])


def points_of(rows: pd.DataFrame, cost: str = "accuracy_drop") -> list[Point]:
    """What each row costs and leaks."""
    return list(zip(rows[cost].astype(float), rows["leakage"].astype(float), strict=True))


@dataclass(frozen=True)
class Family:
    """A defense in one scope.

    Attributes:
        scope: dataset, backbone, split point, seed.
        defense: its name.
        origin: of its rows.
        rows: of the board, its settings.
        hypervolume: see `hypervolume`.
        readings: points of accuracy lost -> leakage and the ends of its interval; without those the curve does not
            reach.
    """

    scope: tuple[str, ...]
    defense: str
    origin: str
    rows: pd.DataFrame
    hypervolume: float
    readings: Mapping[int, tuple[float, float, float]]


def families(board: pd.DataFrame, rows: Mapping[Row, BoardRow]) -> Iterator[Family]:
    """The defenses of a board, the undefended model excepted, scope by scope, largest hypervolume first.

    Args:
        board: from `dpbench.board.leaderboard`.
        rows: what its rows rest on, by name; intervals are empty where that is not at hand.
    """
    measured = compared(board)
    known = _origin_of_rows(board)
    for scope, there in measured[measured["defense"] != UNDEFENDED].groupby(SCOPE, sort=False):
        found = []
        for (defense, origin), own in there.groupby(["defense", "origin"], sort=False):
            readings = _readings(points_of(own), _found(own, rows) if origin in known else [])
            area = hypervolume(points_of(own))
            found.append(Family(tuple(map(str, scope)), str(defense), str(origin), own, area, readings))
        yield from sorted(found, key=lambda one: -one.hypervolume)


def _found(own: pd.DataFrame, rows: Mapping[Row, BoardRow]) -> list[BoardRow]:
    named = ({str(column): value for column, value in values.items()} for values in own.to_dict("records"))
    return [row for values in named if (row := rows.get(CELL_LAYOUT.name_of(values))) is not None]


def _origin_of_rows(board: pd.DataFrame) -> set[str]:
    """The origins of those rows of a board that were measured here: beside a published board they are one's own."""
    own = {origin for origin in board["origin"] if origin.startswith("own")}
    return own or {"measured"}


def _readings(points: Sequence[Point], rows: Sequence[BoardRow]) -> dict[int, tuple[float, float, float]]:
    read = {loss: leak for loss in LOSSES if (leak := read_off(points, loss / 100)) is not None}
    drawn = [one for row in rows if (one := drawn_of(row)) is not None] if read else []
    whole = len(drawn) == len(points)
    unknown = (np.nan, np.nan)
    return {
        loss: (leak, *(interval_at(points, drawn, loss / 100) if whole else unknown)) for loss, leak in read.items()
    }


def _mark(added: pd.DataFrame, column: str, rows: pd.DataFrame, cost: str) -> None:
    added.loc[rows.index, column] = "no"
    added.loc[rows.index[front(points_of(rows, cost))], column] = "yes"


def with_fronts(board: pd.DataFrame, found: Sequence[Family]) -> pd.DataFrame:
    """The board with columns of its own for comparisons at equal accuracy: see dpbench/guide/boards.md.

    Args:
        board: from `dpbench.board.leaderboard`.
        found: its `families`.
    """
    added = pd.DataFrame(
        {name: pd.Series("", index=board.index, dtype=object) for name in ("on_front", "on_cost_front")}
    )
    for _, scope in compared(board).groupby(SCOPE, sort=False):
        _mark(added, "on_front", scope, "accuracy_drop")
        if "added_multiply_adds" in scope:
            usable = scope[(scope["accuracy_drop"] <= WITHIN) & scope["added_multiply_adds"].notna()]
            _mark(added, "on_cost_front", usable, "added_multiply_adds")
    figures: dict[str, dict[Any, float]] = {}
    for family in found:
        told = {"hypervolume": family.hypervolume}
        for loss, values in family.readings.items():
            told |= dict(zip(READINGS[loss], values, strict=True))
        for column, value in told.items():
            figures.setdefault(column, {}).update(dict.fromkeys(family.rows.index, value))
    added = added.assign(**{column: pd.Series(values, index=board.index) for column, values in figures.items()})
    return with_arguments(tidy(board.assign(**added)), arguments_of(board))
