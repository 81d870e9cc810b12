"""Rows of a board before they are rounded: their names, the figures per image and seed they rest on, their columns."""

from __future__ import annotations

import dataclasses
import math
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dpbench.board.cells import Figures
from dpbench.board.columns import DECIMALS, DEFAULT_HEADLINE, FLOOR, WORST_CASE
from dpbench.board.leakage import Normalised, leakage, together
from dpbench.contract.threat import AUXILIARY_DATA, BUDGETS, THREAT_MODELS
from dpbench.metrics.intervals import Floats, interval_columns, resampled_means, resampled_shares
from dpbench.metrics.table import IN_RECORDS
from dpbench.suite.names import RowName

ALL_SEEDS = "all"
"""What the `seed` column says in the row that takes all seeds together."""

SPREAD = ("accuracy", "ssim", "leakage")
"""Figures for which rows over all seeds give the standard deviation over seeds, too."""

LINKED = "link_top1"
"""The column of victims named among candidates by their releases: no figure of an attack's reconstructions."""

OF_ATTACKS = {"reid_top1": ("reid_rank", 1), "reid_top5": ("reid_rank", 5), "identity_top1": ("identity_rank", 1)}

RANKS = OF_ATTACKS | {LINKED: ("link_rank", 1)}
"""Column -> the rank that it looks at, and k: the column is the share of victims whose rank is below k."""

MEANS = (*IN_RECORDS, *OF_ATTACKS, "label_read")


@dataclass(frozen=True)
class Sample:
    """What a row rests on for one seed.

    Attributes:
        seed: of the cells.
        figures: per victim, sorted by victim; None where nothing finished.
        scaled: the same beside the floor and the undefended model, where there is a scale.
        correct: top-1 per test image, of the defense; empty where not measured.
        top5: likewise among the first five.
        undefended_correct: likewise, of the undefended model.
        test_set: equal where the test images are the same.
        bound: the guaranteed error per victim, where there is one.
        link: the rank of the victims among candidates, whose releases were compared, where they were.
    """

    seed: str
    figures: Figures | None
    scaled: Normalised | None
    correct: Sequence[bool]
    undefended_correct: Sequence[bool]
    test_set: str
    bound: Figures | None = None
    link: Figures | None = None
    top5: Sequence[bool] = ()


@dataclass(frozen=True, eq=False)
class BoardRow:
    """A row: `facts` are the columns that are no means over images, `samples` one for each seed.

    `members` are the ids of the cells that it is made of.
    """

    name: RowName
    facts: dict[str, Any]
    samples: tuple[Sample, ...]
    members: tuple[str, ...] = ()

    def columns(self) -> dict[str, Any]:
        """Column -> value, not rounded; a column without a value is left out."""
        columns: dict[str, Any] = self.name.columns() | self.facts
        found = [sample.figures for sample in self.samples if sample.figures is not None]
        if found:
            columns["images"] = len({victim for figures in found for victim in figures.victims})
        for column in MEANS:
            columns |= _mean(column, [(figures.victims, column_values(figures, column)) for figures in found])
        metrics = [facts for facts in found[0].metrics if all(facts in one.metrics for one in found)] if found else []
        for facts in metrics:
            own = [(figures.victims, figures.values.get(facts.name)) for figures in found]
            columns |= _mean(facts.name, own, facts.range)
        columns["metrics"] = " ".join(facts.text for facts in metrics)
        bounds_ = [sample.bound for sample in self.samples if sample.bound is not None]
        columns |= _mean("mse_bound", [(bound.victims, bound.values["mse_bound"]) for bound in bounds_])
        linked = [sample.link for sample in self.samples if sample.link is not None]
        columns |= _mean(LINKED, [(link.victims, column_values(link, LINKED)) for link in linked])
        return columns | self._leakage() | self._accuracy()

    def _leakage(self) -> dict[str, Any]:
        scaled = together([sample.scaled for sample in self.samples if sample.scaled is not None])
        if not scaled:
            return {}
        images = len({victim for one in scaled for victim in one.victims})
        columns: dict[str, Any] = {"leakage_metrics": scaled[0].label, "leakage_images": images}
        columns |= _estimate("leakage", *leakage(scaled), images)
        for metric in scaled[0].metrics:
            columns |= _estimate(f"leakage_{metric}", *leakage(scaled, metric), images)
        return columns

    def _accuracy(self) -> dict[str, float]:
        known = [sample for sample in self.samples if sample.correct]
        if not known:
            return {}
        shares = [_share(sample.correct) for sample in known]
        images = max(len(sample.correct) for sample in known)
        columns = _estimate("accuracy", shares, resampled_shares([sample.correct for sample in known]), images)
        five = [sample.top5 for sample in known if sample.top5]
        if five:
            columns |= _estimate("accuracy_top5", [_share(hits) for hits in five], resampled_shares(five), images)
        known = [sample for sample in known if sample.undefended_correct]
        if known:
            drawn = resampled_shares([s.correct for s in known] + [s.undefended_correct for s in known])
            drops = [_share(sample.undefended_correct) - _share(sample.correct) for sample in known]
            pairs = zip(drawn[len(known) :], drawn[: len(known)], strict=True)
            columns |= _estimate("accuracy_drop", drops, [reference - own for reference, own in pairs], images)
        return columns


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits)


def column_values(figures: Figures, column: str) -> Floats | None:
    """The figures per image (N,) whose mean is in this column; None where they were not measured."""
    if column in RANKS:
        rank, below = RANKS[column]
        ranks = figures.values.get(rank)
        return None if ranks is None else (ranks < below).astype(np.float64)
    return figures.values.get(column)


def _mean(
    column: str,
    seeds: Sequence[tuple[tuple[str, ...], Floats | None]],
    limits: tuple[float, float] | None = None,
) -> dict[str, float]:
    known = [(victims, values) for victims, values in seeds if values is not None and len(values)]
    if not known:
        return {}
    drawn = resampled_means([(victims, values[:, None]) for victims, values in known])
    images = len({victim for victims, _ in known for victim in victims})
    means_of = [float(values.mean()) for _, values in known]
    return _estimate(column, means_of, [means[:, 0] for means in drawn], images, limits)


def _estimate(
    column: str,
    seeds: Sequence[float],
    drawn: Sequence[Floats],
    images: int,
    limits: tuple[float, float] | None = None,
) -> dict[str, float]:
    """Mean over seeds, its interval, and the spread over seeds; `drawn` holds the resamples of each seed."""
    columns = interval_columns(column, seeds, drawn, images, limits=limits)
    if column in SPREAD and len(seeds) > 1:
        columns[f"{column}_spread"] = float(np.std(seeds, ddof=1))
    return columns


def over_all_seeds(rows: Sequence[BoardRow]) -> BoardRow:
    """One row for what several rows measured with different seeds."""
    rows = sorted(rows, key=lambda row: int(row.name.seed))
    budget = max((row.name.budget for row in rows), key=[str(name) for name in BUDGETS].index)
    name = dataclasses.replace(rows[0].name, seed=ALL_SEEDS, budget=budget)
    facts = {column: _shared([row.facts.get(column) for row in rows]) for column in rows[0].facts}
    status, error = _status_over_seeds(rows)
    facts |= {"status": status, "error": error, "cell": ""}
    facts["seconds"] = sum(row.facts["seconds"] for row in rows)
    facts["ensemble"] = "; ".join(sorted({row.facts["ensemble"] for row in rows} - {""}))
    facts["converged"] = min((row.facts["converged"] for row in rows), key=("no", "yes", "").index)
    members = tuple(member for row in rows for member in row.members)
    return BoardRow(name, facts, tuple(sample for row in rows for sample in row.samples), members)


def on_common_seeds(rows: Sequence[BoardRow]) -> list[BoardRow]:
    """Rows over all seeds of one defense setting, with leakage over those seeds in which every worst case has it.

    Else an attacker who failed with the seed that leaks most would show less than a weaker one.
    """
    worst = [row for row in rows if row.name.attack == WORST_CASE]
    known = [seeds for row in worst if (seeds := {sample.seed for sample in row.samples if sample.scaled is not None})]
    shared = set.intersection(*known) if known else set()
    return [
        dataclasses.replace(
            row,
            samples=tuple(s if s.seed in shared else dataclasses.replace(s, scaled=None) for s in row.samples),
        )
        for row in rows
    ]


def _shared(values: Sequence[Any]) -> Any:
    """The largest of numbers (the weakest guarantee, the highest chance), the first of texts."""
    known = [value for value in values if value not in (None, "") and value == value]
    if not known:
        return values[0]
    return known[0] if isinstance(known[0], str) else max(known)


def _status_over_seeds(rows: Sequence[BoardRow]) -> tuple[str, str]:
    worst = [row for row in rows if row.facts["status"] != "ok"]
    if not worst:
        return "ok", ""
    error = "; ".join(f"seed {row.name.seed} {row.facts['status']}: {row.facts['error']}" for row in worst)
    found = {row.facts["status"] for row in rows}
    if found == {"failed"}:
        return "failed", error
    return "unreliable" if "unreliable" in found else "incomplete", error


class RowTable:
    """Rows as they are written, held column by column: figures as plain doubles, texts once each."""

    def __init__(self) -> None:
        self.count = 0
        self._columns: dict[str, array[float] | list[Any]] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """One more row: column -> value; what it lacks is empty."""
        for column in row.keys() - self._columns.keys():
            figures = column in DECIMALS
            self._columns[column] = array("d", [math.nan] * self.count) if figures else [None] * self.count
        for column, values in self._columns.items():
            value = row.get(column)
            if isinstance(values, array):
                values.append(math.nan if value is None else value)
            else:
                values.append(sys.intern(value) if isinstance(value, str) else value)
        self.count += 1

    def frame(self) -> pd.DataFrame:
        """All rows, not rounded."""
        return pd.DataFrame(
            {
                name: np.asarray(values) if isinstance(values, array) else pd.Series(values, dtype=object)
                for name, values in self._columns.items()
            }
        )


def sorted_rows(board: pd.DataFrame) -> pd.DataFrame:
    """Settings by accuracy and worst-case leakage; in one the worst case, then attacks, closest first."""
    kind = {WORST_CASE: 0, FLOOR: 2}
    keyed = board.assign(
        by_seed=pd.to_numeric(board["seed"], errors="coerce"),  # "all" comes last
        kind=board["attack"].map(lambda attack: kind.get(attack, 1)),
        by_threat=-board["threat_model"].map(THREAT_MODELS.index),
        by_auxiliary=-board["auxiliary"].map(AUXILIARY_DATA.index),
        by_releases=-board["releases"],
        by_server=board["server"] if "server" in board else "",  # those whom the server does not help come last
        by_budget=-board["budget"].map(BUDGETS.index),
        by_ssim=-board["ssim"],
    )
    tier = ["by_threat", "by_auxiliary", "by_releases", "by_server"]
    setting = ["dataset", "backbone", "split_point", "seed", "defense", "defense_args"]
    heads = keyed[keyed["attack"] == WORST_CASE].sort_values(tier).drop_duplicates(setting)
    heads = heads.assign(by_accuracy=-heads["accuracy"], by_leak=_headlines(heads))
    keyed = keyed.merge(heads[[*setting, "by_accuracy", "by_leak"]], on=setting, how="left")
    order = ["dataset", "backbone", "split_point", "by_seed", "by_accuracy", "by_leak", "defense", "defense_args"]
    order += ["kind", *tier, "by_ssim", "attack", "by_budget", "cell"]
    return keyed.sort_values(order, kind="stable", na_position="last")[list(board.columns)].reset_index(drop=True)


def _headlines(rows: pd.DataFrame) -> pd.Series[float]:
    """The figure that each row is about: leakage, where its suite names no other; SSIM where that is not there."""
    figures = rows["leakage"].fillna(rows["ssim"])
    if "headline" in rows:
        for column in set(rows["headline"]) - {"", DEFAULT_HEADLINE}:
            figures = rows[column].where(rows["headline"] == column, figures)
    return figures
