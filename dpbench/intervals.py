"""Bootstrap intervals over images."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
LEVEL = 0.95

Floats = npt.NDArray[np.float64]


@functools.lru_cache(maxsize=8)
def _weights(images: int) -> Floats:
    """How often each image is drawn in each resample, over `images`: (RESAMPLES, images).

    The same resamples serve every figure over as many images: rows stay comparable image by image, a row does
    not depend on which others are on the board, and deriving a board again gives the same bytes.
    """
    drawn = np.random.default_rng(images).integers(0, images, size=(RESAMPLES, images))
    flat = drawn + images * np.arange(RESAMPLES)[:, None]
    counts = np.bincount(flat.ravel(), minlength=RESAMPLES * images)
    return counts.reshape(RESAMPLES, images) / images


def _percentiles(means: Floats, mean: float) -> tuple[float, float]:
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    # the weighted sums round differently from the mean: never leave it outside by one unit in the last place
    return min(float(low), mean), max(float(high), mean)


def mean_interval(values: Floats) -> tuple[float, float, float]:
    """Mean and 95% percentile interval of per-image figures, (N,) -> (mean, low, high); NaN when N is 0."""
    if len(values) == 0:
        return np.nan, np.nan, np.nan
    mean = float(values.mean())
    return mean, *_percentiles(_weights(len(values)) @ values, mean)


def share_interval(hits: list[bool]) -> tuple[float, float, float]:
    """Share of hits and its 95% percentile interval; NaN for no images.

    Resampling N yes-or-no figures draws from a binomial, so it is drawn directly: test sets may be large.
    """
    images = len(hits)
    if images == 0:
        return np.nan, np.nan, np.nan
    share = sum(hits) / images
    means = np.random.default_rng(images).binomial(images, share, size=RESAMPLES) / images
    return share, *_percentiles(means, share)
