"""Leakage: where a figure lies between the floor (0) and the undefended model under the strongest attacker (1)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dpbench.board.cells import Figures, common
from dpbench.metrics.intervals import Floats, resampled_means
from dpbench.metrics.table import CALIBRATED, LOWER_IS_CLOSER

SAME_AS = {"mse": "psnr_db"}
"""A defense trained on the key has trained on the value: one is a function of the other."""

TRAINED_ON = " (trained on)"
"""Stands at the end of `leakage_metrics` where the defense says that it optimised against all of those metrics."""


@dataclass(frozen=True)
class Scale:
    """What leakage is measured on: one for each dataset, backbone, split point and seed, for every row of it.

    Attributes:
        floor: the zero.
        undefended: the one: the worst case of the undefended model, over all attacks with all that any was granted.
        metrics: those that tell, see `scale_of`.
    """

    floor: Figures
    undefended: Figures
    metrics: tuple[str, ...]

    def among(self, peers: Sequence[Figures]) -> Scale | None:
        """The same scale on the victims and by the metrics that all peers have; None where there are none.

        Peers are all attacks on one defense setting. Rows that show some of them are then comparable: whoever has
        more of them never shows less.
        """
        victims = common([self.floor, *peers])
        metrics = tuple(metric for metric in self.metrics if all(metric in peer.values for peer in peers))
        if not victims or not metrics:
            return None
        return Scale(self.floor.restrict_to(victims), self.undefended.restrict_to(victims), metrics)


def scale_of(floor: Figures | None, undefended: Figures | None, attacks: Sequence[Figures]) -> Scale | None:
    """The scale between floor and undefended model; None where a part is missing, or no metric tells.

    A metric tells where one attack alone is clearly above the floor (see `CALIBRATED`): the best per image of several
    draws beats any floor by some margin, whatever the draws are.

    Args:
        floor: the best guess per image.
        undefended: the worst case of the undefended model.
        attacks: on the undefended model, each alone, without floors.
    """
    if floor is None or undefended is None:
        return None
    victims = common([floor, undefended, *attacks])
    if not victims:
        return None
    floor, undefended = floor.restrict_to(victims), undefended.restrict_to(victims)
    metrics = []
    for metric, margin in CALIBRATED.items():
        if metric in floor.values and metric in undefended.values:
            alone = [attack.restrict_to(victims).values[metric].mean() for attack in attacks if metric in attack.values]
            sign = _sign(metric)
            if alone and max(sign * mean for mean in alone) - sign * floor.values[metric].mean() > margin:
                metrics.append(metric)
    return Scale(floor, undefended, tuple(metrics)) if metrics else None


def _sign(metric: str) -> float:
    return -1.0 if metric in LOWER_IS_CLOSER else 1.0


@dataclass(frozen=True)
class Normalised:
    """Figures of a row beside those of the floor and of the undefended model, on the same victims.

    Attributes:
        victims: content hashes, N of them.
        metrics: those that take part; M of them.
        values: (N, 3 M): per metric the row, the floor and the undefended model; higher is always closer.
        trained_on: metrics that the defense says it optimised against. That changes no figure, or a defense could
            hide by saying so; where it is all of them the label says it.
    """

    victims: tuple[str, ...]
    metrics: tuple[str, ...]
    values: Floats
    trained_on: frozenset[str] = frozenset()

    @property
    def label(self) -> str:
        """What leakage is made of: `ssim psnr_db lpips`, `ssim (trained on)`. Compare it only where this is equal."""
        return " ".join(self.metrics) + (TRAINED_ON if self.trained_on.issuperset(self.metrics) else "")

    def restrict_to(self, victims: Sequence[str]) -> Normalised:
        """The same for some of the victims, in the order given."""
        if tuple(victims) == self.victims:
            return self
        place = {victim: index for index, victim in enumerate(self.victims)}
        return replace(self, victims=tuple(victims), values=self.values[[place[v] for v in victims]])

    def by(self, metrics: Sequence[str]) -> Normalised:
        """The same for some of the metrics, in the order given."""
        columns = [3 * self.metrics.index(metric) + part for metric in metrics for part in range(3)]
        return replace(self, metrics=tuple(metrics), values=self.values[:, columns])

    def ratios(self, means: Floats) -> Floats:
        """Means (..., 3 M) -> ratio per metric (..., M), at least 0, not clipped above.

        An attacker who is below the floor by one metric could have shown the floor instead: that must not make up for
        what it recovered by another.
        """
        row, low, high = (means[..., part::3] for part in range(3))
        # in a resample the span may vanish, although it is clear on all victims: the ratio is then huge, and clipped
        ratios: Floats = np.maximum(0, (row - low) / np.maximum(high - low, 1e-9))
        return ratios


def normalised(row: Figures | None, scale: Scale | None, trained_on: Collection[str] = ()) -> Normalised | None:
    """A row beside the ends of its scale; None without a scale, or where the row lacks a victim or a metric of it.

    Args:
        row: has figures for all victims of the scale, and perhaps for more.
        scale: see `Scale.among`.
        trained_on: the metrics that the defense says it optimised against.
    """
    if row is None or scale is None:
        return None
    if not all(metric in row.values for metric in scale.metrics) or not set(scale.floor.victims) <= set(row.victims):
        return None
    parts = (row.restrict_to(scale.floor.victims), scale.floor, scale.undefended)
    columns = [_sign(metric) * part.values[metric] for metric in scale.metrics for part in parts]
    claimed = frozenset(SAME_AS.get(metric, metric) for metric in trained_on)
    return Normalised(scale.floor.victims, scale.metrics, np.stack(columns, axis=1), claimed)


def together(seeds: Sequence[Normalised]) -> list[Normalised]:
    """The same row with several seeds, by the metrics that take part in all of them; empty where there are none."""
    shared = [metric for metric in CALIBRATED if all(metric in one.metrics for one in seeds)]
    return [one.by(shared) for one in seeds] if shared else []


def leakage(seeds: Sequence[Normalised], metric: str | None = None) -> tuple[list[float], list[Floats]]:
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
