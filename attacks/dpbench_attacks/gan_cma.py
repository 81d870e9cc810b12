"""Search a generator without gradients: whoever may ask the client, and no more, can do it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from dpbench.contract.attack import Observation
from dpbench.contract.threat import Needs
from dpbench.plugins.registry import register
from dpbench.toolkit.inversion import (
    Whitening,
    converged,
    images_for_statistics,
    pooled,
    total_variation,
    victim_releases,
    victims_per_batch,
)
from dpbench.toolkit.release_match import ReleaseMatch
from dpbench.toolkit.view import viewed
from dpbench_attacks._gan_search import POINTS, SEPARATE, best_of_pool
from dpbench_attacks._priors import Blocks, ChosenPrior

if TYPE_CHECKING:
    from cmaes import SepCMA

COARSE = 4
"""Pixels a side of the correction."""

SAME = 1e-6
"""Share of a release's variance by which two releases of an image may differ, and still count as the same."""


@dataclass(frozen=True)
class Asked:
    """A client that can only be asked, for searches that expect a white box: it releases, without gradients."""

    query: Callable[[Tensor], Tensor]

    def release(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Images -> released features; the client draws by itself."""
        return self.query(images)

    def releases(self, images: Tensor, draws: int, *, generator: torch.Generator | None = None) -> list[Tensor]:
        """See `Client`."""
        return [self.query(images) for _ in range(draws)]

    features = release


@register
class GradientFreeGanInversion(ChosenPrior):
    """CMA-ES on the latent vector of a generator, one search for each victim, all asked at once.

    Hansen & Ostermeier 2001, "Completely derandomized self-adaptation in evolution strategies"; as the attack for
    whoever has no gradients: Li et al. 2023 (GLASS), which searches one w of StyleGAN with sigma 0.4 in 20,000
    evaluations. Differs: the separable form (Ros & Hansen 2008) of the package `cmaes`, whose cost does not grow with
    the square of the dimensions; the generator is the DCGAN of `gan`, or the user's own as in `gan-progressive`; the
    search starts at the best of a pool of random z; fewer evaluations. Releases are compared whitened, as in
    `dpbench.toolkit.release_match`, masks as they come; further releases of the same victims are pooled.

    `correction = 0.3` also searches 4x4 pixels that are added to the image, for a generator that never saw the like:
    features come nearer, while images leave what it paints (LPIPS 0.23 to 0.30 in place of 0.14 in a trial on the
    images it was trained on, where SSIM fell too).
    """

    name: ClassVar[str] = "gan-cma"
    version: ClassVar[int] = 3
    paper: ClassVar[str] = "https://doi.org/10.1162/106365601750190398"
    needs: ClassVar[Needs] = "query"
    budgets: ClassVar[dict[str, dict[str, float]]] = {
        "small": {"generations": 0.4, "pool": 0.25, "training_steps": 0.2, "width": 0.5},
        "large": {"generations": 4, "pool": 4, "training_steps": 2},
    }

    generations: int = Field(200, ge=1, le=100_000, description="of CMA-ES")
    population: int = Field(24, ge=4, le=4096, description="candidates of each victim in each generation")
    sigma: float = Field(0.4, gt=0, le=5, description="std of the first generation")
    pool: int = Field(2048, ge=1, le=1_000_000, description="random z whose releases are compared with every victim")
    correction: float = Field(
        0.0, ge=0, le=1, description="pixel values that a step of a correction of 4x4 pixels is worth; 0: none"
    )
    total_variation: float = Field(0.0, ge=0, le=100, description="weight of TV; what a generator paints needs none")
    draws: int = Field(2, ge=1, le=64, description="releases averaged for each candidate, for stochastic clients")

    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """Make the generator and search it: (N,3,H,W) in [0,1]."""
        seen = viewed(seen)
        seen.granted_query()
        network = self.chosen_generator(seen)
        match = study_answers(seen, self.draws)
        starts, first = best_of_pool(match, network, self.pool, 1, victims_per_batch(seen), generator)
        images, last = self._search(match, network, starts[:, 0], seen, generator)
        seen.notes["first_feature_loss"] = round(float(first.mean()), 5)
        seen.notes["final_feature_loss"] = round(float(last.mean()), 5)
        seen.notes["converged"] = converged(first, last, match.residual)
        return images

    @torch.no_grad()
    def _search(
        self, match: ReleaseMatch, network: Blocks, starts: Tensor, seen: Observation, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """From z (N, latent): images (N,3,H,W) and their feature distances (N,)."""
        device, count = starts.device, len(starts)
        best = torch.cat([starts, torch.zeros(count, 3 * COARSE**2 if self.correction else 0, device=device)], 1)
        searches = [self._begun(start, generator) for start in best.cpu().double().numpy()]
        everyone = torch.arange(count, device=device)
        lowest, last = self._objectives(match, network, best, everyone, seen, generator)
        for generation in range(self.generations):
            if generation % 10 == 0:
                seen.progress(f"generation {generation}/{self.generations}")
            asked = np.stack([[search.ask() for _ in range(self.population)] for search in searches])
            candidates = torch.from_numpy(asked).to(device, torch.float32)
            victims = everyone.repeat_interleave(self.population)
            objectives, distances = (
                values.view(count, self.population)
                for values in self._objectives(match, network, candidates.flatten(0, 1), victims, seen, generator)
            )
            for search, solutions, values in zip(searches, asked, objectives.tolist(), strict=True):
                search.tell(list(zip(solutions, values, strict=True)))
            value, chosen = objectives.min(1)
            if generation % math.ceil(self.generations / POINTS) == 0:
                seen.log(generation, feature_distance=round(float(last.mean()), 4))
            better = value < lowest
            lowest = torch.where(better, value, lowest)
            last = torch.where(better, distances[everyone, chosen], last)
            best = torch.where(better[:, None], candidates[everyone, chosen], best)
        chunks = best.split(victims_per_batch(seen))
        return torch.cat([self._painted(network, chunk, seen.image_shape) for chunk in chunks]), last

    def _begun(self, start: np.ndarray[tuple[int], np.dtype[np.float64]], generator: torch.Generator) -> SepCMA:
        from cmaes import SepCMA  # here alone: it takes a second, which every command would wait

        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        return SepCMA(mean=start, sigma=self.sigma, population_size=self.population, seed=seed)

    def _objectives(
        self,
        match: ReleaseMatch,
        network: Blocks,
        candidates: Tensor,
        victims: Tensor,
        seen: Observation,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """What is minimised, and the feature distances, of candidates (M, latent + correction), each (M,)."""
        objectives, distances = [], []
        size = victims_per_batch(seen)
        for some, chunk in zip(candidates.split(size), victims.split(size), strict=True):
            images = self._painted(network, some, seen.image_shape)
            distance = match.distance(images, chunk, generator)
            z, correction = some[:, : network.latent], some[:, network.latent :]
            prior = 0.01 * (z.square().mean(1) - 1).square() + 0.001 * correction.square().sum(1) / (3 * COARSE**2)
            objectives.append(distance + self.total_variation * total_variation(images) + prior)
            distances.append(distance)
        # a client that answers with what is no number tells nothing: the worst there is
        return torch.cat(objectives).nan_to_num(1e9, 1e9), torch.cat(distances)

    def _painted(self, network: Blocks, candidates: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        """Images (M,3,H,W) in [0,1] of z (M, latent) or, with a correction beside it, (M, latent + 48)."""
        images = network(candidates[:, : network.latent])
        if not self.correction:
            return images
        coarse = candidates[:, network.latent :].unflatten(1, (3, COARSE, COARSE)) * self.correction
        return (images + functional.interpolate(coarse, image_shape[1:], mode="bicubic")).clamp(0, 1)


@torch.no_grad()
def study_answers(seen: Observation, draws: int) -> ReleaseMatch:
    """How to compare releases of a client that can only be asked, learned on auxiliary images."""
    query, times = seen.granted_query(), len(victim_releases(seen))
    shape = tuple(seen.released.shape[1:])
    known = seen.auxiliary.images[: images_for_statistics(shape, least=64)].to(seen.released.device)

    def answered(times: int) -> Tensor:
        chunks = known.split(victims_per_batch(seen))
        return torch.cat([pooled([query(chunk) for _ in range(times)]) for chunk in chunks])

    one, other = answered(1), answered(1)
    stochastic = float((one - other).square().mean()) > SAME * float(one.var())
    together = answered(times)
    again = answered(times) if stochastic else None
    whitening = Whitening(shape).to(seen.released.device)
    whitening.fit(together, again=again, separate=SEPARATE)

    def noise(one: Tensor, other: Tensor) -> float:
        return float((whitening.difference(one, other).square().mean() / 2).clamp(0, 1))

    residual = noise(together, again) + noise(one, other) if again is not None else 0.0
    seen.notes["fallbacks"] = [f"mean of {draws} releases"] if stochastic else []
    return ReleaseMatch(
        Asked(query),
        pooled(victim_releases(seen)),
        whitening,
        draws=draws if stochastic else 1,
        stochastic=stochastic,
        residual=residual,
    )
