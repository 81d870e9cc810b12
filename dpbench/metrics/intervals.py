"""Bootstrap intervals: over images, and over seeds where there are several."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

from dpbench.metrics.table import RANGES

RESAMPLES = 2000
LEVEL = 0.95

FOLLOWED = 0.8
"""Skewness, times the quantile that an interval reaches for, is followed up to here. Hall's cubic is flat where their
product is near 1, so that its inverse runs away there: it made the intervals of 4 images half as wide again, in skewed
resamples of 16 up to 2.5 times, and missed the true mean no less often."""

Floats = npt.NDArray[np.float64]

SHARES = ("accuracy", "accuracy_top5", "reid_top1", "reid_top5", "identity_top1", "label_read", "link_top1")
"""Figures that count hits."""

LIMITS = RANGES | {"mse_bound": (0.0, np.inf)}
"""Figure -> its least and its greatest value; of shares and of leakage 0 and 1, of others none."""


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


def percentiles(resampled: Floats, mean: float) -> tuple[float, float]:
    """The 95% percentile interval of a figure's resamples, (RESAMPLES,) -> (low, high), never without the mean.

    For quotients over many images, whose resamples may have no variance to speak of; with few images it is too narrow.
    """
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail])
    # the weighted sums round differently from the mean: never leave it outside by one unit in the last place
    return min(float(low), mean), max(float(high), mean)


def bounds(resampled: Floats, mean: float, images: int) -> tuple[float, float]:
    """The 95% interval of a figure from its resamples, (RESAMPLES,) -> (low, high), never without the mean.

    Student's t with the standard error of the resamples, and with their skewness taken out by the transformation of
    Hall 1992, "On the removal of skewness by transformation", as far as that is sound (`FOLLOWED`). Percentiles of the
    resamples leave the true mean of 4 skewed figures outside in a quarter of all cases, of 16 in a tenth; these in 4%
    to 9%, and in 5% of 64.

    Args:
        resampled: the figure in each resample.
        mean: the figure itself.
        images: how many were resampled; of fewer than two nothing is known, and both ends are NaN.
    """
    if images < 2:
        return np.nan, np.nan
    spread = float(resampled.std())
    if spread < 1e-12 * max(1.0, abs(mean)):  # all resamples are one figure, but for rounding
        return mean, mean
    away = (resampled - resampled.mean()) / spread
    skewness = (away * away * away).mean()
    low, high = bounds_of_moments(np.array(mean), np.array(spread), np.array(skewness), images)
    return float(low), float(high)


def bounds_of_moments(means: Floats, spreads: Floats, skewness: Floats, images: int) -> tuple[Floats, Floats]:
    """`bounds` of many figures whose resamples have this standard deviation and skewness; arrays of one shape."""
    error = spreads * (images / (images - 1)) ** 0.5
    quantile = float(stdtrit(images - 1, (1 + LEVEL) / 2))
    skewness = np.clip(skewness, -FOLLOWED / quantile, FOLLOWED / quantile)
    low, high = (means - error * _unskewed(end, skewness) for end in (quantile, -quantile))
    return np.minimum(low, means), np.maximum(high, means)


def _unskewed(quantile: float, skewness: Floats) -> Floats:
    """The inverse of Hall's cubic: where the quantile lies for a mean with this skewness, for each of them."""
    straight = np.abs(skewness) < 1e-6
    safe = np.where(straight, 1.0, skewness)
    bent = 3 / safe * (np.cbrt(1 + safe * (quantile - safe / 6)) - 1)
    return np.where(straight, quantile, bent)


def share_bounds(share: float, images: int) -> tuple[float, float]:
    """The 95% score interval of a share of hits (Wilson 1927): four hits of four are no certainty."""
    if images == 0:
        return np.nan, np.nan
    z = float(ndtri((1 + LEVEL) / 2))
    centre = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    reach = z / (1 + z**2 / images) * (share * (1 - share) / images + z**2 / (4 * images**2)) ** 0.5
    return max(0.0, min(centre - reach, share)), min(1.0, max(centre + reach, share))


def interval_columns(
    column: str,
    seeds: Sequence[float],
    drawn: Sequence[Floats],
    images: int,
    *,
    limits: tuple[float, float] | None = None,
) -> dict[str, float]:
    """A figure of a board with the ends of its 95% interval: `column`, `column_low`, `column_high`.

    Args:
        column: names the figure; what it is decides where its interval ends, see `SHARES` and `LIMITS`.
        seeds: the figure with each seed.
        drawn: its resamples (RESAMPLES,) with each seed.
        images: how many different ones were resampled.
        limits: least and greatest value of a figure that is not dpbench's own.
    """
    mean = float(np.mean(seeds))
    if column in SHARES:
        low, high = share_bounds(mean, images)
        if len(seeds) > 1:  # the seeds differ too
            mixed = bounds(over_seeds(drawn), mean, images)
            low, high = float(np.fmin(low, mixed[0])), float(np.fmax(high, mixed[1]))
    else:
        low, high = bounds(over_seeds(drawn), mean, images)
    shared = column in SHARES or column.startswith("leakage")
    least, greatest = (0.0, 1.0) if shared else limits or LIMITS.get(column, (-np.inf, np.inf))
    return {column: mean, f"{column}_low": max(low, least), f"{column}_high": min(high, greatest)}


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
    return list(_resampled_shares(tuple(bytes(one) for one in hits)))


@functools.lru_cache(maxsize=64)
def _resampled_shares(hits: tuple[bytes, ...]) -> tuple[Floats, ...]:
    """All attacks on one setting ask for the same; nobody may change what comes back."""
    images = len(hits[0])
    codes = sum(np.frombuffer(one, dtype=np.uint8).astype(np.int64) << bit for bit, one in enumerate(hits))
    patterns, counts = np.unique(np.asarray(codes), return_counts=True)
    drawn = np.random.default_rng(images).multinomial(images, counts / images, size=RESAMPLES) / images
    return tuple(drawn @ ((patterns >> bit) & 1).astype(np.float64) for bit in range(len(hits)))


def mean_interval(values: Floats) -> tuple[float, float, float]:
    """Mean and 95% interval of per-image figures, (N,) -> (mean, low, high); NaN where N is too small for it."""
    if len(values) == 0:
        return np.nan, np.nan, np.nan
    mean = float(values.mean())
    return mean, *bounds(_weights(len(values)) @ values, mean, len(values))
