"""Several inversions of one release, blended by weights that are fitted where the truth is known."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from dpbench.contract.attack import Attack, Observation
from dpbench.contract.images import LabelledImages
from dpbench.contract.threat import Needs
from dpbench.metrics.fidelity import ssim_unchecked
from dpbench.plugins.registry import register
from dpbench.toolkit.inverse_training import InverseTraining
from dpbench.toolkit.inversion import converged, pooled, victim_releases, victims_per_batch
from dpbench.toolkit.release_match import ReleaseMatch, study_client
from dpbench.toolkit.view import viewed
from dpbench_attacks._pyramid_search import START, Pair, PyramidSearch, Weights

PICKS = 10
"""Blends are means of so many picks, with repetition: weights are tenths."""

SHARE_HELD = 0.125
"""At most this share of the auxiliary images is kept from the decoder."""


@register
class Fusion(Attack):
    """A decoder, then searches from its image by likelihood under several regularisers, blended; and once more.

    Caruana et al. 2004, "Ensemble selection from libraries of models": members are picked with repetition, each time
    the one that lowers the error most, and the blend is the mean of the picks. Here the library holds images: the
    start, and what the searches of `rmle` (He et al. 2019) make of it under each pair of regularisers, up to one that
    hardly leaves the start. The error is measured on auxiliary images that were kept from the decoder, so that it
    errs on them as on victims; the blend is the start of the next round. Differs: no classifiers but images are
    averaged; the pairs are first tried on a few images, and the best of them on all; members come from this attack's
    own searches alone, since the errors of what other attacks found could not be measured.
    """

    name: ClassVar[str] = "fuse"
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "https://doi.org/10.1145/1015330.1015432"
    needs: ClassVar[Needs] = "weights"
    budgets: ClassVar[dict[str, dict[str, float]]] = {
        size: {"steps": steps, "held_out": images, "trials": images, "rounds": rounds}
        | InverseTraining.budget_of_part(size)
        for size, steps, images, rounds in (("small", 0.4, 0.5, 1), ("large", 4, 2, 2))
    }

    steps: int = Field(500, ge=1, le=100_000, description="Adam steps of each search")
    learning_rate: float = Field(0.06, gt=0, le=1, description="peak of the one-cycle schedule")
    rounds: int = Field(1, ge=1, le=8, description="times that a blend is made; each starts from the one before")
    total_variation: Weights = Field(
        (0.002, 0.01, 0.1, 1.0, 4.0), min_length=1, description="weights of TV (mean absolute difference) to try"
    )
    nearness: Weights = Field(
        (0.0, 1.0, 10.0, 100.0, 1000.0),
        min_length=1,
        description="weights of the mean squared distance from the start to try",
    )
    held_out: int = Field(32, ge=2, le=4096, description="auxiliary images on which the blend is fitted")
    trials: int = Field(8, ge=1, le=1024, description="of them, those on which all pairs of weights are tried")
    finalists: int = Field(6, ge=1, le=64, description="pairs of weights that are tried on all of them")
    decoder_steps: int = Field(1600, ge=1, le=100_000, description="of the decoder, as in `decoder`")
    decoder_width: int = Field(128, ge=8, le=1024, description="likewise")
    decoder_blocks: int = Field(2, ge=1, le=32, description="likewise")
    decoder_batch_size: int = Field(64, ge=2, le=4096, description="likewise")
    draws: int = Field(2, ge=1, le=64, description="releases averaged in each step, for stochastic clients")

    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """Blend inversions of every victim: (N,3,H,W) in [0,1]."""
        seen = viewed(seen)
        match = study_client(seen, draws=self.draws, generator=generator, search=True)
        rest, truth = self._divided(seen)
        decoder = InverseTraining.of(self).within(seen)
        network = decoder.trained(rest)
        released = pooled([seen.granted_query()(truth) for _ in victim_releases(seen)])
        search = _Searches(self, victims_per_batch(seen), seen, generator)
        trial = _Inverted(replace(match, released=released), decoder.apply(network, released), "trial, ")
        victims = _Inverted(match, decoder.apply(network, match.released), "")
        first, blends = search.distance(victims), []
        for number in range(self.rounds):
            label = f"round {number + 1}, " if self.rounds > 1 else ""
            tried = self._tried(search, replace(trial, label=f"{label}trial, "), truth)
            weights = _picked(tried, truth)
            blends.append({_in_words(pair): round(weight, 2) for pair, weight in weights.items()})
            if list(weights) == [START]:
                break
            trial = replace(trial, start=_blended(tried, weights))
            found = search(replace(victims, label=label), [pair for pair in weights if pair != START])
            victims = replace(victims, start=_blended({START: victims.start, **found}, weights))
        last = search.distance(victims)
        seen.notes["blends"] = blends
        seen.notes["first_feature_loss"] = round(float(first.mean()), 5)
        seen.notes["final_feature_loss"] = round(float(last.mean()), 5)
        searched = converged(first, last, match.residual) and not match.blind
        seen.notes["converged"] = bool(seen.notes["converged"]) or searched  # a blend may be the decoder's image
        return victims.start

    def _divided(self, seen: Observation) -> tuple[Observation, Tensor]:
        """What is seen without some of the auxiliary images, and those, (H,3,H,W)."""
        images, labels = seen.auxiliary.images, seen.auxiliary.labels
        kept = len(labels) - max(1, min(self.held_out, int(SHARE_HELD * len(labels))))
        truth = images[kept:].to(seen.released.device)
        rest = LabelledImages(images.narrow(0, 0, kept), labels[:kept], seen.auxiliary.batch_size)

        def remember(
            name: str,
            train: Callable[[torch.Generator], dict[str, Tensor]],
            depends_on: Literal["auxiliary", "query"],
            *,
            owner: tuple[str, str] | None = None,
        ) -> dict[str, Tensor]:
            return seen.remember(f"{name}-of-the-first-{kept}", train, depends_on, owner=owner)

        return replace(seen, auxiliary=rest, remember=remember), truth

    def _tried(self, search: _Searches, trial: _Inverted, truth: Tensor) -> dict[Pair, Tensor]:
        """The library: the start, and what the best pairs of regularisers make of it, each (H,3,H,W)."""
        pairs = list(itertools.product(self.total_variation, self.nearness))
        some = search(trial.some(slice(self.trials)), pairs)
        best = sorted(pairs, key=lambda pair: _error(some[pair], truth[: self.trials]))[: self.finalists]
        others = search(trial.some(slice(self.trials, None)), best) if len(truth) > self.trials else {}
        found = {pair: torch.cat([some[pair], *([others[pair]] if others else [])]) for pair in best}
        return {START: trial.start, **found}


@dataclass(frozen=True)
class _Inverted:
    """Releases that are inverted, in `match`; from where, (N,3,H,W); and what the display calls them."""

    match: ReleaseMatch
    start: Tensor
    label: str

    def some(self, places: slice) -> _Inverted:
        """Those of them at these places."""
        match = replace(self.match, released=self.match.released[places])
        return replace(self, match=match, start=self.start[places])


@dataclass(frozen=True)
class _Searches:
    """Inverts releases under several pairs of regularisers, as many images at once as fit."""

    attack: Fusion
    at_once: int
    seen: Observation
    generator: torch.Generator

    def __call__(self, inverted: _Inverted, pairs: Sequence[Pair]) -> dict[Pair, Tensor]:
        """What is found under each pair, (N,3,H,W) in [0,1]."""
        search = PyramidSearch(self.attack.steps, self.attack.learning_rate, self.seen.progress)
        start, count = inverted.start, len(inverted.start)
        weights = torch.tensor(pairs, device=start.device).repeat_interleave(count, 0)
        victims = torch.arange(count, device=start.device).repeat(len(pairs))
        found = [
            search.invert(inverted.match, some, start[some], tv, near, inverted.label, self.generator)[0]
            for some, (tv, near) in zip(
                victims.split(self.at_once), (part.unbind(1) for part in weights.split(self.at_once)), strict=True
            )
        ]
        return dict(zip(pairs, torch.cat(found).split(count), strict=True))

    @torch.no_grad()
    def distance(self, inverted: _Inverted) -> Tensor:
        """Feature distances of the images from which searches start, (N,)."""
        everyone = torch.arange(len(inverted.start), device=inverted.start.device)
        chunks = everyone.split(self.at_once)
        return torch.cat([inverted.match.distance(inverted.start[chunk], chunk, self.generator) for chunk in chunks])


def _error(images: Tensor, truth: Tensor) -> float:
    """How far images (N,3,H,W) are from the true ones, on both scales: MSE alone prefers blur."""
    return float((images - truth).square().mean() + 0.2 * (1 - ssim_unchecked(images, truth).mean()))


def _picked(library: Mapping[Pair, Tensor], truth: Tensor) -> dict[Pair, float]:
    """Weights of the members of the best blend, which sum to 1; those of weight 0 are left out."""
    picks: list[Pair] = []
    lowest, best = float("inf"), 0
    total = torch.zeros_like(truth)
    for count in range(1, PICKS + 1):
        errors = {pair: _error((total + images) / count, truth) for pair, images in library.items()}
        pick = min(errors, key=errors.__getitem__)
        picks.append(pick)
        total = total + library[pick]
        if errors[pick] < lowest:
            lowest, best = errors[pick], count
    return {pair: picks[:best].count(pair) / best for pair in library if pair in picks[:best]}


def _blended(library: Mapping[Pair, Tensor], weights: Mapping[Pair, float]) -> Tensor:
    """The mean of images (N,3,H,W) by these weights, in [0,1]."""
    return torch.stack([weight * library[pair] for pair, weight in weights.items()]).sum(0).clamp(0, 1)


def _in_words(pair: Pair) -> str:
    return "start" if pair == START else f"TV {pair[0]:g}, nearness {pair[1]:g}"
