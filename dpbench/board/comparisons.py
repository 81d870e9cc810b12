"""Paired comparisons: two rows on the very same images, resampled together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dpbench.board.cells import grouped
from dpbench.board.columns import DEFAULT_HEADLINE, WORST_CASE
from dpbench.board.leakage import Normalised, leakage
from dpbench.board.rows import LINKED, BoardRow, Sample, column_values
from dpbench.metrics.intervals import Floats, bounds, over_seeds, resampled_means, resampled_shares

EXACT = 1e-9
"""Differences below it are rounding."""

Pairs = list[tuple[Sample, Sample]]
Draws = dict[tuple[int, tuple[tuple[str, ...], ...]], tuple[list[float], list[Floats]]]


def difference(
    first: BoardRow, second: BoardRow, column: str, *, known: Draws | None = None
) -> tuple[float, float] | None:
    """The 95% interval of the mean of `second` minus that of `first`, over the images and seeds that both have.

    Args:
        first: a row.
        second: a row of the same dataset, backbone and split point.
        column: `leakage`, `accuracy`, or a mean over victims such as `ssim` or `reid_top1`.
        known: keeps the resamples of leakage from one call to the next.

    Returns:
        None where they have nothing in common; for leakage also where it is made of other metrics. Both ends are NaN
        for a single image, which tells nothing.
    """
    pairs = [(one, two) for one in first.samples for two in second.samples if one.seed == two.seed]
    if column == "accuracy":
        return _accuracy(pairs)
    if column == "leakage":
        return _leakage(first, second, pairs, {} if known is None else known)
    differences = []
    for one, two in pairs:
        mine, theirs = (sample.link if column == LINKED else sample.figures for sample in (one, two))
        if mine is None or theirs is None:
            continue
        shared = sorted(set(mine.victims) & set(theirs.victims))
        before, after = (column_values(figures.restrict_to(shared), column) for figures in (mine, theirs))
        if shared and before is not None and after is not None:
            differences.append((shared, (after - before)[:, None]))
    if not differences:
        return None
    drawn = resampled_means(differences)
    return bounds(
        over_seeds([means[:, 0] for means in drawn]),
        float(np.mean([values.mean() for _, values in differences])),
        len({victim for victims, _ in differences for victim in victims}),
    )


def _accuracy(pairs: Pairs) -> tuple[float, float] | None:
    pairs = [
        (one, two)
        for one, two in pairs
        if one.correct and one.test_set == two.test_set and len(one.correct) == len(two.correct)
    ]
    if not pairs:
        return None
    drawn = resampled_shares([one.correct for one, _ in pairs] + [two.correct for _, two in pairs])
    changes = [after - before for before, after in zip(drawn[: len(pairs)], drawn[len(pairs) :], strict=True)]
    means = [sum(two.correct) / len(two.correct) - sum(one.correct) / len(one.correct) for one, two in pairs]
    return bounds(over_seeds(changes), float(np.mean(means)), max(len(one.correct) for one, _ in pairs))


def _leakage(first: BoardRow, second: BoardRow, pairs: Pairs, known: Draws) -> tuple[float, float] | None:
    before: list[Normalised] = []
    after: list[Normalised] = []
    for one, two in pairs:
        if one.scaled is None or two.scaled is None or one.scaled.label != two.scaled.label:
            continue
        shared = sorted(set(one.scaled.victims) & set(two.scaled.victims))
        if shared:
            before.append(one.scaled.restrict_to(shared))
            after.append(two.scaled.restrict_to(shared))
    if not before:
        return None
    figures, draws = zip(*(_drawn(row, seeds, known) for row, seeds in ((first, before), (second, after))), strict=True)
    change = over_seeds([late - early for early, late in zip(*draws, strict=True)])
    images = len({victim for one in before for victim in one.victims})
    return bounds(change, float(np.mean(figures[1]) - np.mean(figures[0])), images)


def _drawn(row: BoardRow, seeds: Sequence[Normalised], known: Draws) -> tuple[list[float], list[Floats]]:
    key = id(row), tuple(one.victims for one in seeds)
    if key not in known:
        known[key] = leakage(seeds)
    return known[key]


def significant(interval: tuple[float, float]) -> bool:
    """Whether the interval of a difference excludes 0."""
    return interval[0] > EXACT or interval[1] < -EXACT


def ties(rows: Sequence[BoardRow]) -> dict[BoardRow, str]:
    """Worst-case row -> the settings that it cannot be told from, `name args; name args`.

    By the headline, leakage where a suite names no other, or by SSIM where one of the two lacks it; against the same
    attackers and with the same seed.
    """
    worst = [row for row in rows if row.name.attack == WORST_CASE]
    tied: dict[BoardRow, list[str]] = {row: [] for row in worst}
    for panel in grouped(worst, _attacker).values():
        known: Draws = {}
        for index, first in enumerate(panel):
            for second in panel[index + 1 :]:
                figure = first.facts["headline"] or DEFAULT_HEADLINE
                interval = difference(first, second, figure, known=known) or difference(first, second, "ssim")
                if interval is not None and not significant(interval):
                    tied[first].append(second.name.setting)
                    tied[second].append(first.name.setting)
    return {row: "; ".join(sorted(others)) for row, others in tied.items()}


def _attacker(row: BoardRow) -> tuple[str | int, ...]:
    return *row.name.group, row.name.threat_model, row.name.auxiliary, row.name.releases, row.name.server
