"""How far a candidate's release is from a victim's: the distance that white-box attacks minimise.

Here a defense could make an attack fail without hiding anything, so it is here, once: whitened differences, several
draws for stochastic releases, masked entries left out, a straight-through surrogate where gradients are useless
(Athalye et al. 2018, "Obfuscated gradients give a false sense of security").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dpbench.contract.attack import Client, Observation
from dpbench.errors import DpbenchError
from dpbench.toolkit.inversion import (
    Whitening,
    channel_axis,
    converged,
    images_for_statistics,
    pooled,
    victim_releases,
    victims_per_batch,
)
from dpbench.toolkit.standardising import Standardising
from dpbench.toolkit.surrogate import Gradient, learned_surrogate

PROBES = 64
"""Auxiliary images on which the client is studied before an optimisation."""

MASK_DRAWS = 8
"""Releases of the same images that tell a masked entry from one that is always zero."""


@dataclass(frozen=True)
class ReleaseMatch:
    """How far the releases of candidate images are from the victims' released features.

    Attributes:
        client: the white box.
        released: (N, ...) the victims' released features, pooled over all releases of them.
        whitening: of pooled releases; differences are measured after it.
        draws: fresh releases to average over at each call; 1 for a deterministic client.
        stochastic: two releases of the same images differ.
        noise: variance of the noise of pooled releases over that of whitened features, in [0,1]; 0 for masks.
        residual: distance to expect between one draw and the pooled releases of the same image; 0 for masks.
        zero_weight: None, or for masking clients, per channel, how probable it is that a released zero is a
            true zero and not a masked entry. Other masked entries are left out of the distance.
        surrogate: images -> something of the shape of a release, whose gradients are followed because those of
            `client.release` are useless.
        blind: no gradient that was tried leads anywhere: what is found says nothing about the defense.
    """

    client: Client
    released: Tensor
    whitening: Whitening
    draws: int = 1
    stochastic: bool = False
    noise: float = 0.0
    residual: float = 0.0
    zero_weight: Tensor | None = None
    surrogate: Callable[[Tensor], Tensor] | None = None
    blind: bool = False

    def release(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """One differentiable release of (N,3,H,W) candidate images, through the surrogate where it is needed."""
        if self.surrogate is None:
            return self.client.release(images, generator=generator)
        with torch.no_grad():
            released = self.client.release(images, generator=generator)
        followed = self.surrogate(images)
        return released + (followed - followed.detach())

    def standardised(self, release: Tensor) -> Tensor:
        """Whitened releases, flattened to (N, values)."""
        white: Tensor = self.whitening(release)
        return white.flatten(1)

    def distance(self, images: Tensor, victims: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared whitened difference, averaged over draws.

        Args:
            images: (M,3,H,W) candidates in [0,1].
            victims: (M,) which victim each candidate is compared with.
            generator: feeds the draws of a stochastic client.

        Returns:
            (M,) distances; 0 is a perfect match, about 2 that of unrelated images.
        """
        target = self.released[victims]
        total = torch.zeros(len(images), device=images.device)
        for release in self._draws(images, generator):
            total = total + self.compare(release, target)
        return total / self.draws

    def _draws(self, images: Tensor, generator: torch.Generator) -> Sequence[Tensor]:
        if self.surrogate is None:
            return self.client.releases(images, self.draws, generator=generator)
        return [self.release(images, generator) for _ in range(self.draws)]

    def compare(self, release: Tensor, target: Tensor) -> Tensor:
        """Mean squared whitened difference of two releases (M, ...) -> (M,)."""
        squares = self.whitening.difference(release, target).square().flatten(1)
        if self.zero_weight is None:
            return squares.mean(1)
        alive = ((target != 0) & (release != 0)).float()
        weight = torch.where(target == 0, self.zero_weight.expand_as(target), alive).flatten(1)
        return (squares * weight).sum(1) / weight.sum(1).clamp_min(1.0)

    def note(self, notes: dict[str, Any], first: Tensor, last: Tensor) -> None:
        """Say how far a search came: distances (N,) of where it began and of where it ended."""
        notes["first_feature_loss"] = round(float(first.mean()), 5)
        notes["final_feature_loss"] = round(float(last.mean()), 5)
        notes["converged"] = converged(first, last, self.residual) and not self.blind


def study_client(
    seen: Observation, *, draws: int, generator: torch.Generator, separate: float = 0.0, search: bool = False
) -> ReleaseMatch:
    """Find out on auxiliary images what kind of client this is, and say so in `seen.notes`.

    Args:
        seen: grants the weights; its auxiliary images are released a few times.
        draws: how many releases to average over if the client turns out to be stochastic.
        generator: feeds the draws.
        separate: see `Whitening.fit`.
        search: judge gradients by short searches too. One that looks right at first may soon halt: values that are left
            out of a release, because others are larger, have none.
    """
    client = seen.granted_client()
    releases = victim_releases(seen)
    batch = victims_per_batch(seen)

    @torch.no_grad()
    def release(images: Tensor, times: int = 1) -> Tensor:
        """The pooled releases of images."""
        return torch.cat(
            [
                pooled([client.release(chunk, generator=generator) for _ in range(times)])
                for chunk in images.to(seen.released.device).split(batch)
            ]
        )

    probes = seen.auxiliary.images[: min(PROBES, batch)].to(seen.released.device)
    first, second = release(probes), release(probes)
    shape = tuple(first.shape[1:])
    standardising = Standardising(shape, channel_axis(tuple(first.shape))).to(first.device)
    standardising.fit(first)
    one, other = standardising(first), standardising(second)
    stochastic = float((one - other).square().mean()) > 2e-6 * float(one.var())
    masks = stochastic and _masks(first, second)

    known = seen.auxiliary.images[: images_for_statistics(shape, least=len(probes))]
    whitening = Whitening(shape).to(first.device)
    match = ReleaseMatch(client, pooled(releases), whitening, stochastic=stochastic)
    fallbacks = []
    seen.notes["release_noise"] = 0.0
    if not stochastic:
        whitening.fit(release(known, len(releases)), separate=separate)
    else:
        fallbacks.append(f"expectation over {draws} draws")
        together = release(known, len(releases))
        again = release(known, len(releases))
        # masks: a mixed entry could not be left out
        whitening.fit(together, again=again, mix=not masks, separate=separate)
        noise = _noise(whitening, together, again)
        seen.notes["release_noise"] = round(noise, 6)
        match = replace(match, draws=draws, noise=noise, residual=noise + _noise(whitening, first, second))
    if masks:
        fallbacks.append("masked entries left out")
        always_zero = (first == 0) & (second == 0)
        for _ in range(MASK_DRAWS - 2):
            always_zero &= release(probes) == 0
        # what a mask lets through is exact
        match = replace(match, noise=0.0, residual=0.0, zero_weight=_zero_weight(always_zero, together))
    match, met = _followed(match, seen, probes[: max(2, len(probes) // 4)], generator, search)
    seen.notes["fallbacks"] = fallbacks + met
    return match


def _followed(
    match: ReleaseMatch, seen: Observation, probes: Tensor, generator: torch.Generator, search: bool
) -> tuple[ReleaseMatch, list[str]]:
    """The match with gradients that lead somewhere, and what had to be done for that, in words.

    Raises:
        DpbenchError: the release shows what image it comes from, but there is no gradient to follow it by.
    """
    own = Gradient.of(match, probes, generator)
    if own.start <= 1e-9:
        return match, []  # all images release the same: there is nothing to follow
    shape = tuple(match.released.shape[1:])
    heads: dict[str, Client] = {"straight-through gradient": match.client}
    if seen.undefended is not None:
        heads["gradient of the undefended client"] = seen.undefended
    best, best_words, fault = own, "", own.fault
    for words, head in heads.items():
        if best_words and best.leads:
            break
        if tuple(head.features(probes[:2]).shape[1:]) != shape:
            continue
        other = Gradient.of(replace(match, surrogate=head.features), probes, generator)
        if other.leads and (fault or own.gain < 0.5 * other.gain) and not best.gain > other.gain:
            fault = fault or "shattered"
            best, best_words = other, words
        elif search and not fault and other.leads and other.ends_below(own, probes, generator):
            fault, best, best_words = "halting", other, words
    if fault and not best.leads:
        draw = generator.get_state()

        @torch.no_grad()
        def release(images: Tensor) -> Tensor:
            return match.client.release(images, generator=generator)

        learned = learned_surrogate(seen, release, shape)
        generator.set_state(draw)
        other = Gradient.of(replace(match, surrogate=learned), probes, generator)
        if other.gain > best.gain or not own.there:
            best, best_words = other, "gradient of a learned surrogate"
    if not fault:
        return match, []
    if not best.there:
        raise DpbenchError(
            "the client's weights are granted, but no gradient of its release or of its features is there to follow; "
            "let gradients pass through it, or grant queries only"
        )
    met = [f"{best_words} ({fault})"] if best_words else []
    return replace(best.match, blind=not best.leads), met


def _noise(whitening: Whitening, one: Tensor, other: Tensor) -> float:
    """Variance of the noise, whitened, in [0,1], from two releases (N, ...) of the same images."""
    return float((whitening.difference(one, other).square().mean() / 2).clamp(0, 1))


def _masks(first: Tensor, second: Tensor) -> bool:
    """Whether entries vanish in one of two draws (N, ...) and, where both survive, keep one value."""
    one_vanished = ((first == 0) != (second == 0)).float().mean()
    both = (first != 0) & (second != 0)
    unchanged = torch.isclose(first, second, rtol=1e-3)[both].float().mean()
    return float(one_vanished) > 1e-3 and float(unchanged) > 0.9


def _zero_weight(always_zero: Tensor, together: Tensor) -> Tensor:
    """Per channel, the share of true zeros among those of pooled releases (N, ...); broadcasts against them."""
    axis = channel_axis(tuple(together.shape))
    others = [i for i in range(together.ndim) if i != axis]
    true_zeros = always_zero.float().mean(others, keepdim=True)
    zeros = (together == 0).float().mean(others, keepdim=True)
    return (true_zeros / zeros.clamp_min(1e-6)).clamp(0, 1)
