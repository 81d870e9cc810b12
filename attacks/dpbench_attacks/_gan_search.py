"""The search that attacks with a generator share: its latent space first, then its intermediate features."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Protocol

import torch
from pydantic import Field
from torch import Tensor

from dpbench.contract.attack import Attack, Observation
from dpbench.contract.threat import Needs
from dpbench.machine.devices import compiled
from dpbench.models.training import one_cycle
from dpbench.toolkit.inversion import Curve, total_variation, victims_per_batch
from dpbench.toolkit.release_match import ReleaseMatch

SEPARATE = 0.5
"""Share of the distance without whitening: a generator paints coarse structure first, which whitening weighs little."""

POINTS = 40
"""Of the curve that is kept of the first victims' search."""

NOISE_SMOOTHING = 4.0
"""How much more total variation weighs for a release that is all noise."""


class Prior(Protocol):
    """A generator in eval mode, in two halves so that the features between them can be refined.

    Attributes:
        latent: dimensions of z, which is normal.
        channels: 3, or 1 where the images are grey: then their three channels are equal.
    """

    latent: int
    channels: int

    def __call__(self, z: Tensor) -> Tensor:
        """(N, latent) -> images (N,3,H,W) in [0,1]."""

    def first_half(self, z: Tensor) -> Tensor:
        """(N, latent) -> intermediate features (N,C,h,w), fp32."""

    def second_half(self, features: Tensor) -> Tensor:
        """Intermediate features -> images (N,3,H,W) in [0,1], fp32."""


class PriorSearch(Attack):
    """Many random z, the best few of each victim refined, then features of the generator: see `gan`."""

    needs: ClassVar[Needs] = "weights"
    budgets: ClassVar[dict[str, dict[str, float]]] = {
        "small": {"pool": 0.25, "restarts": 0.5, "search_steps": 0.25, "refine_steps": 0.4},
        "large": {"pool": 4, "restarts": 2, "search_steps": 2, "refine_steps": 3},
    }

    pool: int = Field(4096, ge=1, le=1_000_000, description="random z whose releases are compared with every victim")
    restarts: int = Field(4, ge=1, le=256, description="best z of the pool from which each victim is searched")
    search_steps: int = Field(40, ge=0, le=100_000, description="Adam steps on every restart's z")
    refine_steps: int = Field(300, ge=0, le=100_000, description="Adam steps on intermediate features")
    search_learning_rate: float = Field(0.05, gt=0, le=1, description="on z")
    refine_learning_rate: float = Field(0.1, gt=0, le=1, description="on intermediate features")
    nearness: float = Field(
        0.01, ge=0, le=10, description="weight of the squared distance of features from their start"
    )
    total_variation: float = Field(0.7, ge=0, le=100, description="weight of TV while features are refined")
    draws: int = Field(2, ge=1, le=64, description="releases averaged in each step, for stochastic clients")

    def search(self, match: ReleaseMatch, network: Prior, seen: Observation, generator: torch.Generator) -> Tensor:
        """The images of every victim, (N,3,H,W) in [0,1]; notes how far it came."""
        size = victims_per_batch(seen)
        everyone = torch.arange(len(seen.released), device=seen.released.device)
        starts, first = best_of_pool(match, network, self.pool, self.restarts, size, generator)
        images, last = [], []
        chunks = everyone.split(size)
        for i, chunk in enumerate(chunks):
            label = f"victims {i + 1}/{len(chunks)}, " if len(chunks) > 1 else ""
            z = self._search(match, network, chunk, starts[chunk], seen, label, size, generator)
            found, distance = self._refine(match, network, chunk, z, seen, label, generator)
            images.append(found)
            last.append(distance)
        match.note(seen.notes, first, torch.cat(last))
        return torch.cat(images)

    def _search(
        self,
        match: ReleaseMatch,
        network: Prior,
        victims: Tensor,
        starts: Tensor,
        seen: Observation,
        label: str,
        size: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Improve every restart's z for a few steps; (M, restarts, latent) -> the best z of each victim (M, latent)."""
        restarts = starts.shape[1]
        found, lowest = [], []

        def objectives(z: Tensor) -> tuple[Tensor, Tensor]:
            """Distances, and what the search follows, ()."""
            distance = match.distance(network(z), victims, generator)
            # keeps z where the generator was trained: |z|^2 near its expectation
            prior = (z.square().mean(1) - 1).square()
            return distance, (distance + 0.01 * prior).sum()

        evaluated = compiled(objectives)
        for wave in range(restarts):
            seen.progress(f"{label}restart {wave + 1}/{restarts}")
            z = starts[:, wave].clone().requires_grad_(True)
            optimizer = torch.optim.Adam([z], self.search_learning_rate)
            best, value = z.detach().clone(), torch.full((len(victims),), torch.inf, device=z.device)
            for _ in range(self.search_steps + 1):
                with torch.enable_grad():
                    distance, followed = evaluated(z)
                    (gradient,) = torch.autograd.grad(followed, z)
                better = distance.detach() < value
                value = torch.where(better, distance.detach(), value)
                best = torch.where(better[:, None], z.detach(), best)
                z.grad = torch.nan_to_num(gradient)
                optimizer.step()
            found.append(best)
            lowest.append(value)
        winner = torch.stack(lowest).argmin(0)
        return torch.stack(found)[winner, torch.arange(len(victims), device=winner.device)]

    def _refine(
        self,
        match: ReleaseMatch,
        network: Prior,
        victims: Tensor,
        z: Tensor,
        seen: Observation,
        label: str,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Refine features of the generator: images (M,3,H,W) and their feature distances (M,)."""
        origin = network.first_half(z).detach()
        scale = origin.std((0, 2, 3), keepdim=True).clamp_min(1e-3)
        shift = torch.zeros_like(origin).requires_grad_(True)
        correction = torch.zeros(len(z), network.channels, *seen.image_shape[1:], device=z.device).requires_grad_(True)
        smoothness = self.total_variation * (1 + NOISE_SMOOTHING * match.noise)
        groups: list[dict[str, Any]] = [
            {"params": [shift]},
            {"params": [correction], "lr": self.refine_learning_rate / 10},
        ]
        optimizer = torch.optim.Adam(
            groups,
            self.refine_learning_rate,
            betas=(0.9, 0.99),
        )
        schedule = one_cycle(
            optimizer,
            [self.refine_learning_rate, self.refine_learning_rate / 10],
            steps=self.refine_steps + 1,
            rise=0.15,
        )
        best = network(z)
        lowest = torch.full((len(z),), torch.inf, device=z.device)
        last = lowest.clone()
        curve = Curve()

        def objectives(shift: Tensor, correction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """Images, their distances and objectives."""
            images = (network.second_half(origin + scale * shift) + correction).clamp(0, 1)
            distance = match.distance(images, victims, generator)
            near = shift.square().mean((1, 2, 3)) + 10 * correction.square().mean((1, 2, 3))
            return images, distance, distance + self.nearness * near + smoothness * total_variation(images)

        evaluated, first_chunk = compiled(objectives), not victims[0]
        for step in range(self.refine_steps + 1):
            if step % 50 == 0:
                seen.progress(f"{label}refine {step}/{self.refine_steps}")
            with torch.enable_grad():
                images, distance, objective = evaluated(shift, correction)
                gradients = torch.autograd.grad(objective.sum(), [shift, correction])
            if step % math.ceil((self.refine_steps + 1) / POINTS) == 0:
                curve.add(step, distance.detach().mean())
            better = objective.detach() < lowest
            lowest = torch.where(better, objective.detach(), lowest)
            best = torch.where(better[:, None, None, None], images.detach(), best)
            last = torch.where(better, distance.detach(), last)
            shift.grad, correction.grad = (torch.nan_to_num(gradient) for gradient in gradients)
            optimizer.step()
            schedule.step()
        if first_chunk:
            curve.log(seen, "feature_distance")
        return best, last


def normal(count: int, latent: int, device: torch.device, generator: torch.Generator) -> Tensor:
    """Random z, (count, latent), on `device`."""
    return torch.randn(count, latent, generator=generator, device=generator.device).to(device)


class Paints(Protocol):
    """What makes images of z.

    Attributes:
        latent: dimensions of z.
    """

    latent: int

    def __call__(self, z: Tensor) -> Tensor:
        """(N, latent) -> images (N,3,H,W) in [0,1]."""


@torch.no_grad()
def best_of_pool(
    match: ReleaseMatch, network: Paints, pool: int, keep: int, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The z of a pool of random ones that are nearest to each victim.

    Args:
        match: holds what the victims released.
        network: paints.
        pool: how many z are tried.
        keep: how many of them each victim keeps, at most.
        size: so many images at once.
        generator: draws them, and feeds the draws of a stochastic client.

    Returns:
        The nearest z (N, keep, latent), and the mean distance (N,) of all.
    """
    keep = min(keep, pool)
    target = match.standardised(match.released)
    lowest = torch.full((len(target), keep), torch.inf, device=target.device)
    kept = torch.zeros(len(target), keep, network.latent, device=target.device)
    mean = torch.zeros(len(target), device=target.device)
    for count in (min(size, pool - done) for done in range(0, pool, size)):
        z = normal(count, network.latent, target.device, generator)
        release = match.standardised(match.release(network(z), generator))
        # squared distances of all pairs; masks are ignored here: this only ranks the starts
        distance = torch.cdist(target, release).square() / target.shape[1]
        mean = mean + distance.mean(1) * count / pool
        lowest, chosen = torch.cat([lowest, distance], 1).topk(keep, dim=1, largest=False)
        candidates = torch.cat([kept, z.expand(len(target), -1, -1)], 1)
        kept = candidates.gather(1, chosen[:, :, None].expand(-1, -1, network.latent))
    return kept, mean
