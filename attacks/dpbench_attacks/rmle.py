"""Regularised maximum likelihood: search for the image whose released features match."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.attack import Attack, Observation
from dpbench.contract.threat import Needs
from dpbench.metrics.fidelity import ssim_unchecked
from dpbench.plugins.registry import register
from dpbench.toolkit.inverse_training import InverseTraining
from dpbench.toolkit.inversion import converged, pooled, total_variation, victim_releases, victims_per_batch
from dpbench.toolkit.release_match import ReleaseMatch, study_client
from dpbench.toolkit.view import viewed

COARSEST = 2
"""Pixels on the shorter side of the top of the pyramid."""

Weights = Annotated[
    tuple[float, ...], BeforeValidator(lambda value: (value,) if isinstance(value, int | float) else value)
]
"""One number, or several to choose from."""

FIRST_SMOOTHNESS = 1.0
RELAXED = 0.7
"""The weight of TV falls from this one, if it is the larger, over this share of the steps."""

TRIALS = 4
"""Auxiliary images on which the regularisers are tried, with all steps: a shorter search would ask for more of them."""


@register
class RegularisedMaximumLikelihood(Attack):
    """x* = argmin distance(release(x), released) + total_variation * TV(x) + nearness * |x - start|^2.

    He et al. 2019, "Model inversion attacks against collaborative inference", eq. 3 (rMLE); Mahendran & Vedaldi
    2015, "Understanding deep image representations by inverting them". Differs: all victims in one batch, each
    with its own loss; the search starts from what a decoder makes of the features (the attack `decoder`), not from
    zeros or noise, which end in local minima; the image is a sum of a pyramid of resolutions, so that coarse structure
    is found first; differences are whitened over channels by their covariance over auxiliary images; TV is the l1
    norm of differences, its weight falls to its value from a larger one, where the search is better conditioned;
    one-cycle Adam, with the values held in [0,1]; each victim keeps the iterate with the lowest objective. The two
    regularisers are chosen by trial on auxiliary images, whose pixels the attacker knows: much for noisy releases, next
    to none for exact ones. Stochastic, masking and gradient-free clients are met as
    `dpbench.toolkit.release_match` describes; further releases of the same victims are pooled.
    """

    name: ClassVar[str] = "rmle"
    version: ClassVar[int] = 4
    paper: ClassVar[str] = "https://doi.org/10.1145/3359789.3359824"
    needs: ClassVar[Needs] = "weights"
    budgets: ClassVar[dict[str, dict[str, float]]] = {
        size: {"steps": steps} | {f"decoder_{name}": factor for name, factor in InverseTraining.budgets[size].items()}
        for size, steps in (("small", 0.4), ("large", 4))
    }

    ids_skip_default = ("decoder_batch_size",)

    steps: int = Field(500, ge=1, le=100_000, description="Adam steps")
    learning_rate: float = Field(0.06, gt=0, le=1, description="peak of the one-cycle schedule")
    total_variation: Weights = Field(
        (0.01, 0.1, 1.0, 4.0), min_length=1, description="weights of TV (mean absolute difference) to try"
    )
    nearness: Weights = Field(
        (0.0, 1.0, 10.0), min_length=1, description="weights of the mean squared distance from the start to try"
    )
    decoder_steps: int = Field(
        800, ge=1, le=100_000, description="of the decoder that gives the start, as in `decoder`"
    )
    decoder_width: int = Field(128, ge=8, le=1024, description="likewise")
    decoder_blocks: int = Field(2, ge=1, le=32, description="likewise")
    decoder_batch_size: int = Field(64, ge=2, le=4096, description="likewise")
    draws: int = Field(2, ge=1, le=64, description="releases averaged in each step, for stochastic clients")

    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """Optimise one image per victim: (N,3,H,W) in [0,1]."""
        seen = viewed(seen)
        match = study_client(seen, draws=self.draws, generator=generator)
        decoder = InverseTraining(
            steps=self.decoder_steps,
            width=self.decoder_width,
            blocks=self.decoder_blocks,
            batch_size=self.decoder_batch_size,
        )
        decoder = decoder.within(seen)
        network = decoder.trained(seen)
        weights = self._choose_regularisers(match, decoder, network, seen, generator)
        start = decoder.apply(network, match.released)
        victims = torch.arange(len(start), device=start.device)
        chunks = victims.split(victims_per_batch(seen))
        results = []
        for i, chunk in enumerate(chunks):
            label = f"victims {i + 1}/{len(chunks)}, " if len(chunks) > 1 else ""
            tv, near = (weight.expand(len(chunk)) for weight in weights)
            results.append(self._invert(match, chunk, start[chunk], tv, near, seen, label, generator))
        first, last = (torch.cat([result[k] for result in results]) for k in (1, 2))
        seen.notes["first_feature_loss"] = round(float(first.mean()), 5)
        seen.notes["final_feature_loss"] = round(float(last.mean()), 5)
        seen.notes["converged"] = converged(first, last, match.residual) and not match.blind
        return torch.cat([result[0] for result in results])

    def _choose_regularisers(
        self,
        match: ReleaseMatch,
        decoder: InverseTraining,
        network: nn.Module,
        seen: Observation,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """The weights of TV and nearness, each (), that invert releases of auxiliary images best."""
        device = match.released.device
        pairs = list(itertools.product(self.total_variation, self.nearness))
        truth = seen.auxiliary.images[-TRIALS:].to(device)
        releases = pooled([seen.granted_query()(truth) for _ in victim_releases(seen)])
        start = decoder.apply(network, releases)
        everyone = torch.arange(len(truth), device=device)
        batch = max(1, victims_per_batch(seen) // len(truth))
        trial = replace(match, released=releases)
        error = []
        for some in torch.tensor(pairs, device=device).split(batch):
            victims = everyone.repeat(len(some))
            tv, near = (some[:, column].repeat_interleave(len(truth)) for column in (0, 1))
            found, _, _ = self._invert(
                trial, victims, start.repeat(len(some), 1, 1, 1), tv, near, seen, "trial, ", generator
            )
            wanted = truth.repeat(len(some), 1, 1, 1)
            squares = (found - wanted).square().mean((1, 2, 3))
            # both scales: MSE alone prefers blur
            error.append((squares + 0.2 * (1 - ssim_unchecked(found, wanted))).unflatten(0, (len(some), -1)).mean(1))
        best = pairs[int(torch.cat(error).argmin())]
        seen.notes["total_variation"], seen.notes["nearness"] = best
        tv, near = torch.tensor(best, device=device)
        return tv, near

    def _invert(
        self,
        match: ReleaseMatch,
        victims: Tensor,
        start: Tensor,
        smoothness: Tensor,
        nearness: Tensor,
        seen: Observation,
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
            seen: shows progress.
            label: of the chunk.
            generator: feeds the draws of a stochastic client.

        Returns:
            Images (M,3,H,W), and their first and final feature distances (M,).
        """
        levels = _pyramid(len(victims), seen.image_shape, start.device)
        optimizer = torch.optim.Adam(levels, self.learning_rate, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=self.steps + 1, pct_start=0.15
        )
        best = start.clone()
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
                near = (images - start).square().mean((1, 2, 3))
                roughness = total_variation(images)
                objective = distance + smoothness * roughness + nearness * near
                followed = distance + _relaxed(smoothness, step / self.steps) * roughness + nearness * near
                gradients = torch.autograd.grad((followed + outside).sum(), levels)
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


def _relaxed(smoothness: Tensor, progress: float) -> Tensor:
    """The weights of TV that the search follows after this share of its steps, (M,)."""
    fall = min(1.0, progress / RELAXED)
    first = smoothness.clamp_min(FIRST_SMOOTHNESS)
    return first ** (1 - fall) * smoothness**fall


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
