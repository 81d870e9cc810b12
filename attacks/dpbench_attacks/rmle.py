"""Regularised maximum likelihood: search for the image whose released features match."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from dpbench.inversion import converged, total_variation, victims_per_batch
from dpbench.registry import register
from dpbench.release_match import ReleaseMatch, study_client
from dpbench.types import Attack, Needs, Observation

COARSEST = 2
"""Pixels on the shorter side of the top of the pyramid."""

NOISE_SMOOTHING = 1.0
"""How much more the regulariser weighs for a release that is all noise: noise drowns detail, TV fills it."""


@register
class RegularisedMaximumLikelihood(Attack):
    """x* = argmin distance(release(x), released) + total_variation * TV(x), for all victims at once.

    He et al. 2019, "Model inversion attacks against collaborative inference", eq. 3 (rMLE); Mahendran & Vedaldi
    2015, "Understanding deep image representations by inverting them". Differs: all victims in one batch, each
    with its own loss; the search starts from the mean auxiliary image, not from zeros or noise; the image is a
    sum of a pyramid of resolutions, so that coarse structure is found first; differences are whitened over channels
    by their covariance over auxiliary images; TV is the l1 norm of differences; one-cycle Adam, with the values held
    in [0,1]; the regulariser weighs more for noisy releases; each victim keeps the iterate with the lowest objective.
    Stochastic, masking and gradient-free clients are met as `dpbench.release_match` describes; further releases of
    the same victims are pooled.
    """

    name: ClassVar[str] = "rmle"
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "https://doi.org/10.1145/3359789.3359824"
    needs: ClassVar[Needs] = "weights"
    budgets: ClassVar[dict[str, dict[str, float]]] = {"small": {"steps": 0.4}, "large": {"steps": 4}}

    steps: int = Field(400, ge=1, le=100_000, description="Adam steps")
    learning_rate: float = Field(0.06, gt=0, le=1, description="peak of the one-cycle schedule")
    total_variation: float = Field(
        2.0, ge=0, le=100, description="weight of TV (mean absolute difference) beside the standardised distance"
    )
    draws: int = Field(2, ge=1, le=64, description="releases averaged in each step, for stochastic clients")

    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """Optimise one image per victim: (N,3,H,W) in [0,1]."""
        match = study_client(seen, draws=self.draws, generator=generator)
        start = seen.auxiliary.images.mean(0, dtype=torch.float32).to(seen.released.device)
        victims = torch.arange(len(seen.released), device=seen.released.device)
        chunks = victims.split(victims_per_batch(seen.image_shape))
        results = []
        for i, chunk in enumerate(chunks):
            label = f"victims {i + 1}/{len(chunks)}, " if len(chunks) > 1 else ""
            results.append(self._invert(match, chunk, start, seen, label, generator))
        first, last = (torch.cat([result[k] for result in results]) for k in (1, 2))
        seen.notes["first_feature_loss"] = round(float(first.mean()), 5)
        seen.notes["final_feature_loss"] = round(float(last.mean()), 5)
        seen.notes["converged"] = converged(first, last, match.residual)
        return torch.cat([result[0] for result in results])

    def _invert(
        self,
        match: ReleaseMatch,
        victims: Tensor,
        start: Tensor,
        seen: Observation,
        label: str,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images (M,3,H,W) of a chunk of victims, and their first and final feature distances (M,)."""
        smoothness = self.total_variation * (1 + NOISE_SMOOTHING * match.noise)
        levels = _pyramid(len(victims), seen.image_shape, start.device)
        optimizer = torch.optim.Adam(levels, self.learning_rate, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=self.steps + 1, pct_start=0.15
        )
        best = start.expand(len(victims), *start.shape).clone()
        lowest = torch.full((len(victims),), torch.inf, device=start.device)
        first, last = lowest.clone(), lowest.clone()
        for step in range(self.steps + 1):
            if step % 50 == 0:
                seen.progress(f"{label}step {step}/{self.steps}")
            with torch.enable_grad():
                free = start + _compose(levels)
                # the pull back into [0, 1] keeps a gradient where the clamp has none
                images = free.clamp(0, 1)
                outside = (free - images).square().mean((1, 2, 3))
                distance = match.distance(images, victims, generator)
                objective = distance + smoothness * total_variation(images)
                gradients = torch.autograd.grad((objective + outside).sum(), levels)
            found, reached, value = images.detach(), objective.detach(), distance.detach()
            better = reached < lowest
            lowest = torch.where(better, reached, lowest)
            best = torch.where(better[:, None, None, None], found, best)
            last = torch.where(better, value, last)
            if step == 0:
                first = value
            for level, gradient in zip(levels, gradients, strict=True):
                level.grad = torch.nan_to_num(gradient)
            optimizer.step()
            schedule.step()
        return best, first, last


def _pyramid(victims: int, image_shape: tuple[int, int, int], device: torch.device) -> list[Tensor]:
    channels, height, width = image_shape
    levels = max(1, int(math.log2(min(height, width) / COARSEST)) + 1)
    return [
        torch.zeros(victims, channels, height >> level, width >> level, device=device).requires_grad_(True)
        for level in range(levels)
    ]


def _compose(levels: list[Tensor]) -> Tensor:
    size = levels[0].shape[2:]
    total = levels[0]
    for level in levels[1:]:
        total = total + functional.interpolate(level, size, mode="bilinear", align_corners=False)
    return total
