"""Regularised maximum likelihood: search for the image whose released features match."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dpbench.contract.attack import Attack, Observation
from dpbench.contract.threat import Needs
from dpbench.metrics.fidelity import ssim_unchecked
from dpbench.plugins.registry import register
from dpbench.toolkit.inverse_training import InverseTraining
from dpbench.toolkit.inversion import Curve, pooled, victim_releases, victims_per_batch
from dpbench.toolkit.release_match import ReleaseMatch, study_client
from dpbench.toolkit.view import viewed
from dpbench_attacks._pyramid_search import START, Pair, PyramidSearch, Weights

FURTHER = (100.0, 1000.0)
"""Weights of nearness that a wide grid tries too: with the last a search hardly leaves its start."""

FINALISTS = 4
"""Pairs of weights of a wide grid that are tried on further images."""

FINAL_TRIALS = 4
"""A wide grid is decided on so many times `trials` images."""


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
    to none for exact ones. Very noisy ones call for a search that hardly leaves the decoder's image, or for none:
    `grid = "wide"` tries that too, and the best pairs on four times as many images. Stochastic, masking and
    gradient-free clients are met as `dpbench.toolkit.release_match` describes; further releases of the same victims
    are pooled.
    """

    name: ClassVar[str] = "rmle"
    version: ClassVar[int] = 4
    paper: ClassVar[str] = "https://doi.org/10.1145/3359789.3359824"
    needs: ClassVar[Needs] = "weights"
    budgets: ClassVar[dict[str, dict[str, float]]] = {
        size: {"steps": steps} | InverseTraining.budget_of_part(size) for size, steps in (("small", 0.4), ("large", 4))
    }

    ids_skip_default = ("decoder_batch_size", "trials", "grid")

    steps: int = Field(500, ge=1, le=100_000, description="Adam steps")
    learning_rate: float = Field(0.06, gt=0, le=1, description="peak of the one-cycle schedule")
    total_variation: Weights = Field(
        (0.01, 0.1, 1.0, 4.0), min_length=1, description="weights of TV (mean absolute difference) to try"
    )
    nearness: Weights = Field(
        (0.0, 1.0, 10.0), min_length=1, description="weights of the mean squared distance from the start to try"
    )
    trials: int = Field(
        4, ge=1, le=1024, description="auxiliary images on which the weights are tried, each with all steps"
    )
    grid: Literal["narrow", "wide"] = Field(
        "narrow",
        description="wide: nearness up to 1,000 and the start are tried too, the best of all on 4 times `trials`",
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
        decoder = InverseTraining.of(self).within(seen)
        network = decoder.trained(seen)
        search = PyramidSearch(self.steps, self.learning_rate, seen.progress)
        best = self._choose_regularisers(search, match, decoder, network, seen, generator)
        seen.notes["total_variation"], seen.notes["nearness"] = best if best != START else ("none", "the start is kept")
        start = decoder.apply(network, match.released)
        if best == START:
            return start
        weights = torch.tensor(best, device=start.device)
        victims = torch.arange(len(start), device=start.device)
        chunks = victims.split(victims_per_batch(seen))
        results = []
        curve = Curve()
        for i, chunk in enumerate(chunks):
            search = replace(search, curve=None if i else curve)
            label = f"victims {i + 1}/{len(chunks)}, " if len(chunks) > 1 else ""
            tv, near = (weight.expand(len(chunk)) for weight in weights)
            results.append(search.invert(match, chunk, start[chunk], tv, near, label, generator))
        curve.log(seen, "feature_distance")
        first, last = (torch.cat([result[k] for result in results]) for k in (1, 2))
        match.note(seen.notes, first, last)
        return torch.cat([result[0] for result in results])

    def _choose_regularisers(
        self,
        search: PyramidSearch,
        match: ReleaseMatch,
        decoder: InverseTraining,
        network: nn.Module,
        seen: Observation,
        generator: torch.Generator,
    ) -> Pair:
        """The weights of TV and nearness that invert releases of auxiliary images best, or `START`."""
        wide = self.grid == "wide"
        images = seen.auxiliary.images
        truth = images[-self.trials * (FINAL_TRIALS if wide else 1) :].to(match.released.device)
        releases = pooled([seen.granted_query()(truth) for _ in victim_releases(seen)])
        trial = _Trial(search, replace(match, released=releases), decoder.apply(network, releases), truth, generator)
        at_once = victims_per_batch(seen)
        if not wide:
            pairs = list(itertools.product(self.total_variation, self.nearness))
            return pairs[int(trial.errors(pairs, slice(None), at_once).mean(1).argmin())]
        pairs = list(itertools.product(self.total_variation, dict.fromkeys((*self.nearness, *FURTHER))))
        screened = trial.errors(pairs, slice(-self.trials, None), at_once)
        chosen = screened.mean(1).argsort(stable=True)[:FINALISTS]
        finalists = [pairs[int(place)] for place in chosen]
        errors = [screened[chosen]]
        if len(truth) > self.trials:
            errors.append(trial.errors(finalists, slice(None, -self.trials), at_once))
        means = torch.cat(errors, dim=1).mean(1)
        kept = _errors(trial.start, truth).mean()
        return START if bool(kept <= means.min()) else finalists[int(means.argmin())]


@dataclass(frozen=True)
class _Trial:
    """Auxiliary images whose releases are inverted to choose weights by.

    Attributes:
        search: from their starts.
        match: holds their releases.
        start: what the decoder makes of these, (N,3,H,W).
        truth: the images, (N,3,H,W).
        generator: feeds the draws of a stochastic client.
    """

    search: PyramidSearch
    match: ReleaseMatch
    start: Tensor
    truth: Tensor
    generator: torch.Generator

    def errors(self, pairs: list[Pair], places: slice, at_once: int) -> Tensor:
        """Of each pair of weights on the images at these places: (len(pairs), N)."""
        truth, start = self.truth[places], self.start[places]
        match = replace(self.match, released=self.match.released[places])
        everyone = torch.arange(len(truth), device=truth.device)
        errors = []
        for some in torch.tensor(pairs, device=truth.device).split(max(1, at_once // len(truth))):
            tv, near = (some[:, column].repeat_interleave(len(truth)) for column in (0, 1))
            starts = start.repeat(len(some), 1, 1, 1)
            victims = everyone.repeat(len(some))
            found, _, _ = self.search.invert(match, victims, starts, tv, near, "trial, ", self.generator)
            errors.append(_errors(found, truth.repeat(len(some), 1, 1, 1)).unflatten(0, (len(some), -1)))
        return torch.cat(errors)


def _errors(images: Tensor, truth: Tensor) -> Tensor:
    """Of each image, (N,), on both scales: MSE alone prefers blur."""
    return (images - truth).square().mean((1, 2, 3)) + 0.2 * (1 - ssim_unchecked(images, truth))
