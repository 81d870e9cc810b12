"""Leakage: where a figure lies between the floor (0) and the undefended model under the same attacks (1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dpbench.figures import LOWER_IS_CLOSER, Figures, common
from dpbench.intervals import Floats, over_seeds, resampled_means

CALIBRATED = {"ssim": 0.02, "psnr_db": 0.2, "lpips": 0.02}
"""Metrics that make up `leakage`; one counts where the undefended model is so far above the floor."""

SAME_AS = {"mse": "psnr_db"}
"""A defense trained on the key has trained on the value: one is a function of the other."""


@dataclass(frozen=True)
class Scale:
    """What leakage is measured on: its zero, its one, and the metrics that the defense optimised against."""

    floor: Figures | None = None
    undefended: Figures | None = None
    trained_on: frozenset[str] = frozenset()


@dataclass(frozen=True)
class OnScale:
    """A row, the floor and the undefended model on the same victims.

    Attributes:
        victims: content hashes, N of them.
        metrics: those that all three have, where the undefended model is clearly above the floor; M of them.
        values: (N, 3 M): per metric the row, the floor and the undefended model; higher is always closer.
        judged: False where the defense was trained on all of the metrics: then there is no leakage to tell.
    """

    victims: tuple[str, ...]
    metrics: tuple[str, ...]
    values: Floats
    judged: bool

    def on(self, victims: Sequence[str]) -> OnScale:
        """For some of the victims, in the order given; the metrics stay."""
        if tuple(victims) == self.victims:
            return self
        place = {victim: index for index, victim in enumerate(self.victims)}
        return OnScale(tuple(victims), self.metrics, self.values[[place[v] for v in victims]], self.judged)

    def ratios(self, means: Floats) -> Floats:
        """Means (..., 3 M) -> ratio per metric (..., M), at least 0, not clipped above.

        An attacker who is below the floor by one metric could have shown the floor instead: that must not make up for
        what it recovered by another.
        """
        row, low, high = (means[..., part::3] for part in range(3))
        # in a resample the span may vanish, although it is clear on all victims: the ratio is then huge, and clipped
        ratios: Floats = np.maximum(0, (row - low) / np.maximum(high - low, 1e-9))
        return ratios


def on_scale(row: Figures | None, scale: Scale) -> OnScale | None:
    """A row on its scale; None where a part is missing, or no metric is clearly above the floor."""
    if row is None or scale.floor is None or scale.undefended is None:
        return None
    parts = (row, scale.floor, scale.undefended)
    shared = common(parts)
    if not shared:
        return None
    row, floor, undefended = (figures.on(shared) for figures in parts)
    metrics, columns = [], []
    for metric, margin in CALIBRATED.items():
        if all(metric in figures.values for figures in (row, floor, undefended)):
            sign = -1.0 if metric in LOWER_IS_CLOSER else 1.0
            value, low, high = (sign * figures.values[metric] for figures in (row, floor, undefended))
            if high.mean() - low.mean() > margin:
                metrics.append(metric)
                columns += [value, low, high]
    if not metrics:
        return None
    trained_on = {SAME_AS.get(metric, metric) for metric in scale.trained_on}
    return OnScale(shared, tuple(metrics), np.stack(columns, axis=1), judged=not trained_on.issuperset(metrics))


def leakage(seeds: Sequence[OnScale], metric: str | None = None) -> tuple[list[float], list[Floats]]:
    """Leakage per seed and in its resamples (RESAMPLES,), of the mean over all metrics or of one.

    All parts are resampled together, image by image. Clipped to [0, 1], after the mean over metrics.
    """
    resampled = resampled_means([(one.victims, one.values) for one in seeds])
    figures, draws = [], []
    for one, means in zip(seeds, resampled, strict=True):
        chosen = slice(None) if metric is None else [one.metrics.index(metric)]
        figures.append(float(np.clip(one.ratios(one.values.mean(axis=0))[chosen].mean(), 0, 1)))
        draws.append(np.clip(one.ratios(means)[:, chosen].mean(axis=1), 0, 1))
    return figures, draws


def resampled_leakage(seeds: Sequence[OnScale]) -> Floats:
    """Leakage in resamples of victims and seeds, (RESAMPLES,)."""
    return over_seeds(leakage(seeds)[1])
