"""Per-image figures of cells, and the best of several cells image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dpbench.errors import DpbenchError
from dpbench.intervals import Floats
from dpbench.store import METRICS, Recognition, Record

PSNR_CAP_DB = 80.0
"""Of identical images, whose PSNR is infinite otherwise: no mean survives that. See `dpbench.fidelity.psnr_db`."""

LOWER_IS_CLOSER = ("mse", "lpips", "reid_rank", "identity_rank")
PER_IMAGE = (*METRICS, "reid_rank", "identity_rank", "label_read")


@dataclass(frozen=True)
class Figures:
    """Per-image figures: each array of `values` is aligned with `victims` (content hashes)."""

    victims: tuple[str, ...]
    values: dict[str, Floats]

    def on(self, victims: Sequence[str]) -> Figures:
        """The same figures for some of the victims, in the order given."""
        if tuple(victims) == self.victims:
            return self
        place = {victim: index for index, victim in enumerate(self.victims)}
        chosen = [place[victim] for victim in victims]
        return Figures(tuple(victims), {metric: array[chosen] for metric, array in self.values.items()})


class Measured(Protocol):
    """What of a record figures are made of; see `dpbench.store.Record`."""

    @property
    def id(self) -> str:
        """Of what was measured."""

    @property
    def fidelity(self) -> Mapping[str, Sequence[float]]:
        """Metric -> one figure per victim."""

    @property
    def victims(self) -> Sequence[str]:
        """Content hashes."""

    @property
    def recognition(self) -> Recognition | None:
        """Whether a reconstruction gives its victim away."""


def figures_of(record: Measured) -> Figures:
    """The figures of a finished cell; a metric that is not finite everywhere counts as not measured."""
    given: dict[str, Sequence[float]] = dict(record.fidelity)
    if record.recognition is not None:
        given |= {"reid_rank": record.recognition.reid_rank, "label_read": record.recognition.label_read}
        given |= {"identity_rank": record.recognition.identity_rank or []}
    values = {}
    for metric in PER_IMAGE:
        array = np.asarray(given.get(metric, []), dtype=np.float64)
        if len(array) not in (0, len(record.victims)):
            raise DpbenchError(
                f"record {record.id} has {len(array)} figures of {metric} for {len(record.victims)} victims; "
                "delete it and run the suite again, which redoes that cell alone"
            )
        if metric == "psnr_db":
            array = np.minimum(array, PSNR_CAP_DB)
        if len(array) and np.isfinite(array).all():
            values[metric] = array
    return Figures(_distinct(record.victims), values)


def bound_of(record: Record) -> Figures | None:
    """The error bound per victim, as figures; None where there is none, or where it is infinite."""
    bound = np.asarray(record.guarantees.mse_bound if record.guarantees is not None else [], dtype=np.float64)
    if not len(bound) or len(bound) != len(record.victims) or not np.isfinite(bound).all():
        return None
    return Figures(_distinct(record.victims), {"mse_bound": bound})


def _distinct(victims: Sequence[str]) -> tuple[str, ...]:
    """Victims that are the same image twice stay two: `hash`, `hash 2`."""
    seen: dict[str, int] = {}
    names = []
    for victim in victims:
        seen[victim] = seen.get(victim, 0) + 1
        names.append(victim if seen[victim] == 1 else f"{victim} {seen[victim]}")
    return tuple(names)


def in_order(figures: Figures) -> Figures:
    """The same, with the victims sorted: whatever is resampled together is then aligned."""
    return figures.on(sorted(figures.victims))


def worst_case(cells: Sequence[Figures]) -> Figures | None:
    """Per image and metric the best reconstruction, over the victims and metrics that all cells have."""
    if not cells:
        return None
    shared = common(cells)
    aligned = [cell.on(shared) for cell in cells]
    best = {}
    for metric in PER_IMAGE:
        if all(metric in cell.values for cell in aligned):
            pick = np.minimum if metric in LOWER_IS_CLOSER else np.maximum
            best[metric] = pick.reduce([cell.values[metric] for cell in aligned])
    return Figures(tuple(shared), best)


def common(cells: Sequence[Figures]) -> tuple[str, ...]:
    """The victims that all have, in the order of the first."""
    others = [set(cell.victims) for cell in cells[1:]]
    return tuple(victim for victim in cells[0].victims if all(victim in other for other in others))
