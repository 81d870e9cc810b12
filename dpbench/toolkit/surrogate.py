"""Gradients of a client put to the test, and learned from what it releases where it has none that lead anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.attack import Observation
from dpbench.machine.devices import autocast, place
from dpbench.models.training import one_cycle
from dpbench.text.hashing import content_hash
from dpbench.toolkit.inverse_network import features_on_grid
from dpbench.toolkit.inversion import channel_axis, initialise, victims_per_batch
from dpbench.toolkit.standardising import Standardising

VERSION = 1
STEPS = 300
LEARNING_RATE = 3e-3
BATCH = 64
WIDTH = 64
SIDE = 8
"""Positions a side of the grid from which values that lie on no grid are computed."""

STEP_SIZES = (0.003, 0.01, 0.03)
"""RMS per pixel of the steps that put a gradient to the test."""

OVERSHOOT = 100.0
"""A gradient that promises less than the hundredth part of what its direction brings would starve an optimiser."""

LEADS = 1e-3
"""Share by which a step must lower the distance for its direction to lead anywhere."""

SEARCH_STEPS = 10
SEARCH_RATE = 0.03
"""Adam steps of a short search that puts a gradient to the test, and their size."""

BELOW = 0.95
"""Share of the distance that one search leaves, below which another ends further."""

ALIKE = 0.01
"""Two gradients whose steps gain the same, within this share of it, are taken for one: their searches are saved."""

KEPT = 0.02
"""A gradient that keeps less than so much of what it promises, and leads nowhere, points at random."""


class Match(Protocol):
    """What the gradients are of: see `dpbench.toolkit.release_match.ReleaseMatch`."""

    def release(self, images: Tensor, generator: torch.Generator, /) -> Tensor:
        """One differentiable release (N, ...) of images (N,3,H,W)."""

    def compare(self, release: Tensor, target: Tensor, /) -> Tensor:
        """Distance of two releases (M, ...) -> (M,)."""


M = TypeVar("M", bound=Match)


class ReleaseNetwork(nn.Module):
    """Images -> standardised releases of any layout: convolutions where they lie on a grid, and a dense layer.

    Args:
        feature_shape: releases without the batch axis.
        image_shape: (3, H, W).
    """

    def __init__(self, feature_shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.feature_shape = feature_shape
        grid = features_on_grid(torch.empty(1, *feature_shape, device="meta"), image_shape[1:])
        fits = grid is not None and math.prod(grid.shape) == math.prod(feature_shape)
        self.grid = (grid.shape[2], grid.shape[3]) if grid is not None and fits else None
        side = SIDE if self.grid is None else min(self.grid)
        halvings = max(0, round(math.log2(min(image_shape[1:]) / side)))
        layers: list[nn.Module] = [nn.Conv2d(3, WIDTH, 3, padding=1), nn.ReLU()]
        for _ in range(halvings):
            layers += [nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1), nn.ReLU()]
        self.trunk = nn.Sequential(*layers, nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU())
        self.axis = channel_axis((1, *feature_shape))
        values = math.prod(feature_shape)
        self.local = nn.Conv2d(WIDTH, feature_shape[self.axis - 1], 3, padding=1) if self.grid is not None else None
        self.dense = nn.Sequential(nn.Linear(WIDTH * SIDE**2, min(values, 512)), nn.Linear(min(values, 512), values))

    def forward(self, images: Tensor) -> Tensor:
        """(N,3,H,W) in [0,1] -> (N, *feature_shape)."""
        x = self.trunk(images * 2 - 1)
        units: Tensor = self.dense(functional.adaptive_avg_pool2d(x, SIDE).flatten(1)).unflatten(1, self.feature_shape)
        if self.local is not None and self.grid is not None:
            local = functional.adaptive_avg_pool2d(self.local(x), self.grid).flatten(2)  # (N,C,positions)
            units = units + local.movedim(1, self.axis if self.axis != 3 else -1).reshape(units.shape)
        return units


def learned_surrogate(
    seen: Observation, release: Callable[[Tensor], Tensor], shape: tuple[int, ...]
) -> Callable[[Tensor], Tensor]:
    """Images -> about what `release` gives, (N, *shape), with gradients; trained once on auxiliary images."""
    device = seen.released.device
    network = ReleaseNetwork(shape, seen.image_shape)
    standardising = Standardising(shape, channel_axis((1, *shape)))
    both = nn.ModuleDict({"network": network, "standardising": standardising})
    batch = min(BATCH, victims_per_batch(seen))

    def train(generator: torch.Generator) -> dict[str, Tensor]:
        initialise(network, generator)
        place(both, device).train()
        images = seen.auxiliary.images
        standardising.fit(torch.cat([release(chunk.to(device)) for chunk in images[: 4 * BATCH].split(batch)]))
        optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
        schedule = one_cycle(optimizer, LEARNING_RATE, steps=STEPS, rise=0.2)
        for step in range(STEPS):
            if step % 20 == 0:
                seen.progress(f"surrogate step {step}/{STEPS}")
            chosen = torch.randint(len(images), (batch,), generator=generator, device=generator.device)
            some = images[chosen.to(images.device)].to(device)
            wanted = standardising(release(some))
            with torch.enable_grad():
                with autocast(device):
                    units = network(some)
                loss = (units.float() - wanted).square().mean()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
            optimizer.step()
            schedule.step()
        return dict(both.state_dict())

    identity = [VERSION, shape, seen.image_shape, batch]
    state = seen.remember(
        f"surrogate-{content_hash(identity)[:16]}", train, "query", owner=("surrogate", f"v{VERSION}")
    )
    both.load_state_dict(state)
    place(both, device).eval().requires_grad_(False)

    def surrogate(images: Tensor) -> Tensor:
        released: Tensor = standardising.restored(network(images))
        return released

    return surrogate


@dataclass(frozen=True)
class Gradient(Generic[M]):
    """A gradient of the distance between releases, put to the test.

    From every probe image, a few finite steps are taken towards the release of the next one, along the gradient. What
    counts is by how much the distance really falls: a gradient that exists, and even one that is large, may point
    nowhere.

    Attributes:
        match: what the gradient is of.
        start: mean distance of the probes from their targets.
        there: it exists, is finite, and most probes have one that is not zero.
        gain: the best mean share by which a step lowers the distance.
        promise: the share that the gradient promised for that step.
        missing: it does not exist, or is not finite.
    """

    match: M
    start: float
    there: bool = False
    gain: float = 0.0
    promise: float = 0.0
    missing: bool = True

    @classmethod
    def of(cls, match: M, probes: Tensor, generator: torch.Generator) -> Gradient[M]:
        """Test that of `match` on auxiliary images (N,3,H,W); every evaluation makes the same draw."""
        draw = generator.get_state()
        targets, apart = _apart(match, probes, generator.set_state(draw))
        gradient = _gradient(match, probes, targets, generator.set_state(draw))
        if gradient is None:
            return cls(match, float(apart.mean()))
        there = float((gradient.abs().amax((1, 2, 3)) > 0).float().mean()) >= 0.5
        start = apart.clamp_min(1e-12)
        rms = gradient.square().mean((1, 2, 3), keepdim=True).sqrt()
        direction = gradient / rms.clamp_min(1e-30)
        gains = []
        with torch.no_grad():
            for size in STEP_SIZES:
                moved = (probes - size * direction).clamp(0, 1)
                reached = match.compare(match.release(moved, generator.set_state(draw)), targets)
                promised = ((probes - moved) * gradient).sum((1, 2, 3))
                gains.append((float((1 - reached / start).mean()), float((promised / start).mean())))
        return cls(match, float(apart.mean()), there, *max(gains), missing=False)

    def ends_below(self, other: Gradient[M], probes: Tensor, generator: torch.Generator) -> bool:
        """Whether a short search along this one comes clearly nearer to its targets than one along the other.

        Args:
            other: of the same release.
            probes: (N,3,H,W), those that both were tested on.
            generator: feeds the draws; it is left as it was.
        """
        if abs(self.gain - other.gain) <= ALIKE * abs(other.gain):
            return False
        left, of_other = (_left_by_search(one.match, probes, generator) for one in (self, other))
        return left < BELOW * of_other

    @property
    def leads(self) -> bool:
        """Whether it is there and the distance falls along it."""
        return self.there and self.gain > LEADS

    @property
    def fault(self) -> str | None:
        """What is wrong with it by itself: `missing`, `vanishing` or `random`."""
        if self.missing:
            return "missing"
        if not self.there or OVERSHOOT * self.promise < self.gain:
            return "vanishing"
        return "random" if self.gain < min(LEADS, KEPT * self.promise) else None


def _left_by_search(match: Match, probes: Tensor, generator: torch.Generator) -> float:
    """The mean share of the distance from each probe (N,3,H,W) to the next that some steps of Adam leave."""
    draw = generator.get_state()
    targets, start = _apart(match, probes, generator.set_state(draw))
    found = probes.clone()
    optimizer = torch.optim.Adam([found], SEARCH_RATE)
    for _ in range(SEARCH_STEPS):
        found.grad = _gradient(match, found, targets, generator.set_state(draw))
        optimizer.step()
        found.clamp_(0, 1)
    with torch.no_grad():
        reached = match.compare(match.release(found, generator.set_state(draw)), targets)
    generator.set_state(draw)
    return float((reached / start.clamp_min(1e-12)).mean())


@torch.no_grad()
def _apart(match: Match, probes: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What each probe is to be moved towards, the release (N, ...) of the next one, and how far it is from it, (N,)."""
    release = match.release(probes, generator)
    targets = release.roll(1, 0)
    return targets, match.compare(release, targets)


def _gradient(match: Match, probes: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor | None:
    """Of the distance from the probes to the targets, (N,3,H,W); None where there is none or it is not finite."""
    images = probes.clone().requires_grad_(True)
    with torch.enable_grad():
        distance = match.compare(match.release(images, generator), targets).sum()
        if not distance.requires_grad:
            return None
        (gradient,) = torch.autograd.grad(distance, images, allow_unused=True)
    return gradient if gradient is not None and bool(gradient.isfinite().all()) else None
