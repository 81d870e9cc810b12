"""Paired comparisons: two rows on the very same images, resampled together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dpbench.board.cells import grouped
from dpbench.board.columns import DEFAULT_HEADLINE, WORST_CASE
from dpbench.board.leakage import Normalised, leakage
from dpbench.board.rows import LINKED, BoardRow, Sample, column_values
from dpbench.metrics.intervals import Floats, bounds, bounds_of_moments, over_seeds, resampled_means, resampled_shares

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
        for first, second in _tied(panel):
            tied[first].append(second.name.setting)
            tied[second].append(first.name.setting)
    return {row: "; ".join(sorted(others)) for row, others in tied.items()}


def _attacker(row: BoardRow) -> tuple[str | int, ...]:
    return *row.name.group, row.name.threat_model, row.name.auxiliary, row.name.releases, row.name.server


def _tied(panel: Sequence[BoardRow]) -> Iterator[tuple[BoardRow, BoardRow]]:
    """The pairs that cannot be told apart, the earlier row first.

    Rows that rest on the same images are compared all at once; pair by pair is what is left, and what is too close for
    sums that are formed in another order.
    """
    drawn = [_own(row) for row in panel]
    peers = grouped(range(len(panel)), lambda place: drawn[place].peers)
    known: Draws = {}
    for places in peers.values():
        together = [drawn[place] for place in places]
        for one, two, certain in _not_told_apart(together):
            first, second = panel[places[one]], panel[places[two]]
            if certain or _alike(first, second, known):
                yield first, second
    for place, row in enumerate(panel):
        for other in range(place + 1, len(panel)):
            if drawn[place].peers != drawn[other].peers and _alike(row, panel[other], known):
                yield row, panel[other]


def _alike(first: BoardRow, second: BoardRow, known: Draws) -> bool:
    figure = first.facts["headline"] or DEFAULT_HEADLINE
    interval = difference(first, second, figure, known=known) or difference(first, second, "ssim")
    return interval is not None and not significant(interval)


@dataclass(frozen=True)
class _Resampled:
    """A row's figure by which it is compared.

    Attributes:
        peers: equal for rows whose figures are resampled together: which figure, of which seeds and images.
        mean: the figure; NaN where nothing was measured.
        draws: in each resample (RESAMPLES,); empty where nothing was measured.
        images: that were resampled.
    """

    peers: tuple[object, ...]
    mean: float
    draws: Floats
    images: int


def _own(row: BoardRow) -> _Resampled:
    figure = row.facts["headline"] or DEFAULT_HEADLINE
    nothing = _Resampled((figure,), np.nan, np.empty(0), 0)
    of_figure = _of_leakage(row) if figure == "leakage" else _of_column(row, figure)
    return of_figure or _of_column(row, "ssim", figure) or nothing


def _of_leakage(row: BoardRow) -> _Resampled | None:
    scaled = [(sample.seed, sample.scaled) for sample in row.samples if sample.scaled is not None]
    if not scaled:
        return None
    figures, draws = leakage([one for _, one in scaled])
    seeds = tuple((seed, one.victims, one.label) for seed, one in scaled)
    images = len({victim for _, one in scaled for victim in one.victims})
    return _Resampled(("leakage", seeds), float(np.mean(figures)), over_seeds(draws), images)


def _of_column(row: BoardRow, column: str, *more: str) -> _Resampled | None:
    found = [
        (sample.seed, sample.figures.victims, values)
        for sample in row.samples
        if sample.figures is not None and (values := column_values(sample.figures, column)) is not None
    ]
    if not found:
        return None
    draws = over_seeds([means[:, 0] for means in resampled_means([(victims, v[:, None]) for _, victims, v in found])])
    images = len({victim for _, victims, _ in found for victim in victims})
    seeds = tuple((seed, victims) for seed, victims, _ in found)
    return _Resampled((column, *more, seeds), float(np.mean([v.mean() for *_, v in found])), draws, images)


BLOCK = 256
"""So many rows at once are compared with all others."""

CANCELLED = 1e-4
"""A difference whose variance is below this share of the two figures' is formed anew, draw by draw."""


def _not_told_apart(rows: Sequence[_Resampled]) -> Iterator[tuple[int, int, bool]]:
    """Pairs of rows whose difference may be 0, and whether that is certain.

    All moments of all differences are sums over resamples of products of two rows: three products of matrices in
    place of an interval for each pair.
    """
    if len(rows) < 2 or not rows[0].images:
        return
    if rows[0].images < 2:
        yield from ((one, two, False) for one in range(len(rows)) for two in range(one + 1, len(rows)))
        return
    means = np.array([row.mean for row in rows])
    centred = np.stack([row.draws - row.draws.mean() for row in rows])
    squared = centred * centred
    count = centred.shape[1]
    second, third = squared.mean(axis=1), (squared * centred).mean(axis=1)
    for start in range(0, len(rows), BLOCK):
        own = slice(start, start + BLOCK)
        of_both = second[own, None] + second
        variance = of_both - 2 * (centred[own] @ centred.T) / count
        skewed = third - third[own, None] + 3 * (squared[own] @ centred.T - centred[own] @ squared.T) / count
        unclear = variance <= CANCELLED * of_both
        spread = np.sqrt(np.where(unclear, 1.0, variance))
        change = means - means[own, None]
        low, high = bounds_of_moments(change, spread, np.where(unclear, 0.0, skewed / spread**3), rows[0].images)
        near = 1e-6 * spread
        unclear |= (np.abs(low - EXACT) <= near) | (np.abs(high + EXACT) <= near)
        apart = (low > EXACT) | (high < -EXACT)
        pairs = np.argwhere(np.triu(unclear | ~apart, k=start + 1))
        for one, two in pairs.tolist():
            yield start + one, two, not unclear[one, two]
