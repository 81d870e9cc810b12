"""The search that attacks by likelihood share: an image, as a pyramid of resolutions, whose release matches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor
from torch.nn import functional

from dpbench.machine.devices import compiled
from dpbench.models.training import one_cycle
from dpbench.toolkit.inversion import Curve, total_variation
from dpbench.toolkit.release_match import ReleaseMatch

Weights = Annotated[
    tuple[Annotated[float, Field(ge=0)], ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, int | float) else value),
]
"""Of a regulariser: one number, or several to choose from."""

Pair = tuple[float, float]
"""Weights of total variation and of nearness."""

START: Pair = (0.0, float("inf"))
"""What a search would give that may not leave its start."""

COARSEST = 2
"""Pixels on the shorter side of the top of the pyramid."""

POINTS = 40
"""Of the curve that is kept."""

FIRST_SMOOTHNESS = 1.0
RELAXED = 0.7
"""The weight of TV falls from this one, if it is the larger, over this share of the steps."""


@dataclass(frozen=True)
class PyramidSearch:
    """Minimises distance(release(x), released) + smoothness * TV(x) + nearness * |x - start|^2, see `rmle`.

    Attributes:
        steps: of Adam, one-cycle.
        learning_rate: its peak.
        progress: shows a short text.
        curve: keeps, every now and then, the mean distance that it has reached.
    """

    steps: int
    learning_rate: float
    progress: Callable[[str], None]
    curve: Curve | None = None

    def invert(
        self,
        match: ReleaseMatch,
        victims: Tensor,
        start: Tensor,
        smoothness: Tensor,
        nearness: Tensor,
        label: str,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Invert a chunk of victims.

        Args:
            match: holds what they released.
            victims: (M,) their places in it.
            start: (M,3,H,W) in [0,1].
            smoothness: (M,) weights of total variation.
            nearness: (M,) weights of the mean squared distance from the start.
            label: of the chunk.
            generator: feeds the draws of a stochastic client.

        Returns:
            Images (M,3,H,W), and their first and final feature distances (M,).
        """
        levels = _pyramid(start)
        optimizer = torch.optim.Adam(levels, self.learning_rate, betas=(0.9, 0.99))
        schedule = one_cycle(optimizer, self.learning_rate, steps=self.steps + 1, rise=0.15)
        best = start.clone()
        lowest = torch.full((len(victims),), torch.inf, device=start.device)
        first, last = lowest.clone(), lowest.clone()

        def objectives(levels: list[Tensor], relaxed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            """Images, their objectives and distances, and what the search follows, ()."""
            free = start + _compose(levels)
            # the pull back into [0, 1] keeps a gradient where the clamp has none
            images = free.clamp(0, 1)
            outside = (free - images).square().mean((1, 2, 3))
            distance = match.distance(images, victims, generator)
            near = (images - start).square().mean((1, 2, 3))
            roughness = total_variation(images)
            objective = distance + smoothness * roughness + nearness * near
            followed = distance + relaxed * roughness + nearness * near
            return images, objective, distance, (followed + outside).sum()

        evaluated = compiled(objectives)
        for step in range(self.steps + 1):
            if step % 50 == 0:
                self.progress(f"{label}step {step}/{self.steps}")
            with torch.enable_grad():
                images, objective, distance, followed = evaluated(levels, _relaxed(smoothness, step / self.steps))
                gradients = torch.autograd.grad(followed, levels)
            found, reached, value = images.detach(), objective.detach(), distance.detach()
            better = reached < lowest
            lowest = torch.where(better, reached, lowest)
            best = torch.where(better[:, None, None, None], found, best)
            last = torch.where(better, value, last)
            if step == 0:
                first = value
            if self.curve is not None and step % math.ceil(self.steps / POINTS) == 0:
                self.curve.add(step, value.mean())
            for level, gradient in zip(levels, gradients, strict=True):
                level.grad = torch.nan_to_num(gradient)
            optimizer.step()
            schedule.step()
        return best, first, last


def _relaxed(smoothness: Tensor, progress: float) -> Tensor:
    """The weights of TV that the search follows after this share of its steps, (M,)."""
    fall = min(1.0, progress / RELAXED)
    first = smoothness.clamp_min(FIRST_SMOOTHNESS)
    return first ** (1 - fall) * smoothness**fall


def _pyramid(start: Tensor) -> list[Tensor]:
    victims, channels, height, width = start.shape
    levels = max(1, int(math.log2(min(height, width) / COARSEST)) + 1)
    return [
        torch.zeros(victims, channels, height >> level, width >> level, device=start.device).requires_grad_(True)
        for level in range(levels)
    ]


def _compose(levels: list[Tensor]) -> Tensor:
    size = levels[0].shape[2:]
    total = levels[0]
    for level in levels[1:]:
        total = total + functional.interpolate(level, size, mode="bilinear", align_corners=False)
    return total
