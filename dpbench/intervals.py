"""Bootstrap intervals: over images, and over seeds where there are several."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
LEVEL = 0.95

Floats = npt.NDArray[np.float64]


@functools.lru_cache(maxsize=8)
def _weights(drawn_from: int, stream: int = 0) -> Floats:
    """How often each image is drawn in each resample, over the number of images: (RESAMPLES, drawn_from).

    The same resamples serve every figure over as many images: rows stay comparable image by image, a row does
    not depend on which others are on the board, and deriving a board again gives the same bytes.
    """
    generator = np.random.default_rng(drawn_from if stream == 0 else [drawn_from, stream])
    drawn = generator.integers(0, drawn_from, size=(RESAMPLES, drawn_from))
    flat = drawn + drawn_from * np.arange(RESAMPLES)[:, None]
    counts = np.bincount(flat.ravel(), minlength=RESAMPLES * drawn_from)
    return counts.reshape(RESAMPLES, drawn_from) / drawn_from


def bounds(resampled: Floats, mean: float) -> tuple[float, float]:
    """The 95% percentile interval of a figure's resamples, (RESAMPLES,) -> (low, high), never without the mean."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail])
    # the weighted sums round differently from the mean: never leave it outside by one unit in the last place
    return min(float(low), mean), max(float(high), mean)


def interval_columns(column: str, mean: float, resampled: Floats) -> dict[str, float]:
    """A figure of a board with the ends of its 95% interval: `column`, `column_low`, `column_high`."""
    low, high = bounds(resampled, mean)
    return {column: mean, f"{column}_low": low, f"{column}_high": high}


def resampled_means(seeds: Sequence[tuple[Sequence[str], Floats]]) -> list[Floats]:
    """Means over resampled victims, one entry per seed: (victims, (N, K) figures) -> (RESAMPLES, K).

    Victims of the same name are drawn together in all seeds.
    """
    first = list(seeds[0][0])
    if all(list(victims) == first for victims, _ in seeds[1:]):
        return [_weights(len(first)) @ values for _, values in seeds]
    everyone = sorted({victim for victims, _ in seeds for victim in victims})
    place = {victim: index for index, victim in enumerate(everyone)}
    means = []
    for victims, values in seeds:
        chosen = [place[victim] for victim in victims]
        weights = _weights(len(everyone))[:, chosen]
        mass = weights.sum(axis=1, keepdims=True)
        drawn = (weights @ values) / np.where(mass > 0, mass, 1)
        means.append(np.where(mass > 0, drawn, values.mean(axis=0)))  # a resample without any victim of this seed
    return means


def over_seeds(per_seed: Sequence[Floats]) -> Floats:
    """Mean over resampled seeds: one (RESAMPLES,) array per seed -> (RESAMPLES,)."""
    if len(per_seed) == 1:
        return per_seed[0]
    mixed: Floats = (np.stack(per_seed, axis=1) * _weights(len(per_seed), stream=1)).sum(axis=1)
    return mixed


def resampled_shares(hits: Sequence[Sequence[bool]]) -> list[Floats]:
    """Shares of hits over resampled images, one (RESAMPLES,) array per list; lists of one length go image by image.

    Resampling images draws their patterns of hits from a multinomial, so these are drawn directly: test sets may be
    large.
    """
    if len({len(one) for one in hits}) > 1 or len(hits) > 60:  # a pattern has to fit an integer
        return [resampled_shares([one])[0] for one in hits]
    images = len(hits[0])
    codes = sum(np.asarray(one, dtype=np.int64) << bit for bit, one in enumerate(hits))  # one number per pattern
    patterns, counts = np.unique(np.asarray(codes), return_counts=True)
    drawn = np.random.default_rng(images).multinomial(images, counts / images, size=RESAMPLES) / images
    return [drawn @ ((patterns >> bit) & 1).astype(np.float64) for bit in range(len(hits))]


def mean_interval(values: Floats) -> tuple[float, float, float]:
    """Mean and 95% percentile interval of per-image figures, (N,) -> (mean, low, high); NaN when N is 0."""
    if len(values) == 0:
        return np.nan, np.nan, np.nan
    mean = float(values.mean())
    return mean, *bounds(_weights(len(values)) @ values, mean)


def share_interval(hits: Sequence[bool]) -> tuple[float, float, float]:
    """Share of hits and its 95% percentile interval; NaN for no images."""
    if len(hits) == 0:
        return np.nan, np.nan, np.nan
    share = sum(hits) / len(hits)
    return share, *bounds(resampled_shares([hits])[0], share)
