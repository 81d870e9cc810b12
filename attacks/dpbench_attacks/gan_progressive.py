"""Search a generator block after block, from where an encoder says that the image is."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.attack import Observation
from dpbench.contract.threat import Needs
from dpbench.machine.devices import place
from dpbench.metrics.fidelity import ssim_unchecked
from dpbench.models.training import one_cycle
from dpbench.plugins.registry import register
from dpbench.text.hashing import content_hash
from dpbench.toolkit.inverse_network import features_on_grid
from dpbench.toolkit.inversion import (
    Whitening,
    images_for_statistics,
    initialise,
    pooled,
    total_variation,
    victim_releases,
    victims_per_batch,
)
from dpbench.toolkit.release_match import ReleaseMatch, study_client
from dpbench.toolkit.view import viewed
from dpbench_attacks._gan_search import NOISE_SMOOTHING, SEPARATE, best_of_pool, normal
from dpbench_attacks._priors import Blocks, ChosenPrior

ENCODER_WIDTH = 64
ENCODER_BATCH = 32
ENCODER_RATE = 2e-3


@register
class ProgressiveGanInversion(ChosenPrior):
    """An encoder's z, or the best of a pool, then the input of one block of the generator after the other.

    The start: Li et al. 2023 (GLASS++), an encoder from features to the latent space. The search: Daras et al. 2021,
    "Intermediate layer optimization for inverse problems" (ILO); as an attack: Qiu et al. 2024 (IF-GMI), and
    progressive feature optimisation (PFO, 2025; known to us by its recipe alone): what enters block i is optimised
    within an l1 ball around what the search so far puts there, and passed on; last comes the image itself.
    Differs: the generator is the DCGAN of `gan`, or the user's own; only what enters the current block is optimised,
    not the latent beside it; the balls are sized by the spread of the features that they are about; the encoder learns
    from auxiliary images and from painted ones, with MSE, SSIM and a pull towards normal z, without LPIPS; each victim
    keeps the image with the lowest objective of all blocks, so that a block that does not help does not harm.

    `prior = "my_gan.py:build"` names a function that returns an `nn.Module`: z (N, latent) -> images (N,3,H,W) in
    [0,1], with the attribute `latent`; where it has `blocks`, an `nn.Sequential` whose composition it is, what enters
    each is searched: for a StyleGAN the mapping network, spread over the layers, and the synthesis, whose input is
    w+. Its code runs in a process of its own; `checkpoint` holds its weights, and no code.
    """

    name: ClassVar[str] = "gan-progressive"
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "https://arxiv.org/abs/2102.07364"
    needs: ClassVar[Needs] = "weights"
    budgets: ClassVar[dict[str, dict[str, float]]] = {
        "small": {"steps": 0.4, "encoder_steps": 0.4, "pool": 0.25, "training_steps": 0.2, "width": 0.5},
        "large": {"steps": 3, "encoder_steps": 3, "pool": 4, "training_steps": 2},
    }

    steps: int = Field(100, ge=1, le=100_000, description="Adam steps on what enters each block")
    learning_rate: float = Field(0.05, gt=0, le=1, description="likewise, in units of the features' spread")
    radius: float = Field(1.0, gt=0, le=100, description="of the l1 balls: mean change, in units of the spread")
    encoder_steps: int = Field(500, ge=0, le=100_000, description="of the encoder's training; 0: no encoder")
    pool: int = Field(1024, ge=1, le=1_000_000, description="random z whose releases are compared with every victim")
    total_variation: float = Field(0.5, ge=0, le=100, description="weight of TV")
    draws: int = Field(2, ge=1, le=64, description="releases averaged in each step, for stochastic clients")

    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """Make the generator, train (or remember) the encoder, search: (N,3,H,W) in [0,1]."""
        seen = viewed(seen)
        seen.granted_client()
        network = self.chosen_generator(seen)
        match = study_client(seen, draws=self.draws, generator=generator, separate=SEPARATE, search=True)
        smoothness = self.total_variation * (1 + (NOISE_SMOOTHING - 1) * match.noise)
        size = victims_per_batch(seen)
        pool, first = best_of_pool(match, network, self.pool, 1, size, generator)
        starts = pool[:, 0]
        if self.encoder_steps:
            starts = self._nearer(match, network, starts, self._encoded(seen, network), size, generator)
        images, last = [], []
        for chunk in torch.arange(len(starts), device=starts.device).split(size):
            found, distance = self._search(match, network, chunk, starts[chunk], smoothness, seen, generator)
            images.append(found)
            last.append(distance)
        match.note(seen.notes, first, torch.cat(last))
        return torch.cat(images)

    @torch.no_grad()
    def _nearer(
        self, match: ReleaseMatch, network: Blocks, one: Tensor, other: Tensor, size: int, generator: torch.Generator
    ) -> Tensor:
        """Of two z for each victim (N, latent) the one whose release is nearer."""
        chunks = torch.arange(len(one), device=one.device).split(size)
        distances = [
            torch.cat([match.distance(network(z[chunk]), chunk, generator) for chunk in chunks]) for z in (one, other)
        ]
        return torch.where((distances[1] < distances[0])[:, None], other, one)

    def _search(
        self,
        match: ReleaseMatch,
        network: Blocks,
        victims: Tensor,
        start: Tensor,
        smoothness: float,
        seen: Observation,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """One block after the other, from z (M, latent): images (M,3,H,W) and their feature distances (M,)."""
        count = len(network.blocks)
        best = torch.zeros(len(victims), *seen.image_shape, device=start.device)
        lowest = torch.full((len(victims),), torch.inf, device=start.device)
        last = lowest.clone()
        values = start
        for place_in in range(count + 1):
            seen.progress(f"block {place_in}/{count}")
            spread = _rows(values.flatten(1).std(1).clamp_min(1e-3), values) if place_in else torch.ones_like(values)
            shift = torch.zeros_like(values).requires_grad_(True)
            optimizer = torch.optim.Adam([shift], self.learning_rate)
            schedule = one_cycle(optimizer, self.learning_rate, steps=self.steps + 1, rise=0.05)
            reached, kept = torch.full_like(lowest, torch.inf), values
            for _ in range(self.steps + 1):
                with torch.enable_grad():
                    moved = values + spread * shift
                    images = network.onward(moved, place_in)
                    distance = match.distance(images, victims, generator)
                    objective = distance + smoothness * total_variation(images)
                    # keeps z where the generator was trained: |z|^2 near its expectation
                    prior = 0.0 if place_in else 0.01 * (moved.square().mean(1) - 1).square()
                    (gradient,) = torch.autograd.grad((objective + prior).sum(), shift)
                with torch.no_grad():
                    better = objective < reached
                    reached = torch.where(better, objective, reached)
                    kept = torch.where(_rows(better, kept), moved, kept)
                    better = objective < lowest
                    lowest = torch.where(better, objective, lowest)
                    best = torch.where(_rows(better, best), images, best)
                    last = torch.where(better, distance, last)
                    shift.grad = torch.nan_to_num(gradient)
                    optimizer.step()
                    schedule.step()
                    shift.copy_(within_l1_ball(shift, self.radius))
            if not victims[0]:
                seen.log((place_in + 1) * self.steps, feature_distance=round(float(last.mean()), 4))
            if place_in < count:
                with torch.no_grad():
                    values = network.blocks[place_in](kept)
        return best, last

    def _encoded(self, seen: Observation, network: Blocks) -> Tensor:
        """What the encoder makes of the victims' releases: z (N, latent)."""
        releases = victim_releases(seen)
        released = pooled(releases)
        shape = tuple(released.shape[1:])
        encoder = Encoder(shape, seen.image_shape, network.latent)
        batch = seen.auxiliary.training_batch(ENCODER_BATCH)

        @torch.no_grad()
        def query(images: Tensor) -> Tensor:
            return pooled([seen.granted_query()(images) for _ in releases])

        def train(train_generator: torch.Generator) -> dict[str, Tensor]:
            self._train(encoder, network, seen, query, batch, train_generator)
            return dict(encoder.state_dict())

        identity = [self.encoder_steps, batch, shape, seen.image_shape, len(releases), network.identity]
        encoder.load_state_dict(seen.remember(f"encoder-{content_hash(identity)[:16]}", train, "query"))
        place(encoder, released.device).eval().requires_grad_(False)
        with torch.no_grad():
            return torch.cat([encoder(chunk) for chunk in released.split(victims_per_batch(seen))])

    def _train(
        self,
        encoder: Encoder,
        network: Blocks,
        seen: Observation,
        query: Callable[[Tensor], Tensor],
        batch: int,
        generator: torch.Generator,
    ) -> None:
        """Trains the encoder in place, on auxiliary images and, half of the time, on painted ones, whose z is known."""
        device, images = seen.released.device, seen.auxiliary.images
        initialise(encoder, generator)
        place(encoder, device).train()
        known = images[: images_for_statistics(tuple(seen.released.shape[1:]), least=256)].to(device)
        encoder.whitening.fit(torch.cat([query(some) for some in known.split(128)]))
        optimizer = torch.optim.AdamW(encoder.parameters(), ENCODER_RATE)
        schedule = one_cycle(optimizer, ENCODER_RATE, steps=self.encoder_steps)
        for step in range(self.encoder_steps):
            if step % 20 == 0:
                seen.progress(f"encoder step {step}/{self.encoder_steps}")
            z: Tensor | None = None
            if step % 2:
                z = normal(batch, network.latent, device, generator)
                with torch.no_grad():
                    some = network(z)
            else:
                chosen = torch.randint(len(images), (batch,), generator=generator, device=generator.device)
                some = images[chosen.to(images.device)].to(device)
            released = query(some)
            with torch.enable_grad():
                guess = encoder(released)
                painted = network(guess)
                loss = functional.mse_loss(painted, some) + 0.2 * (1 - ssim_unchecked(painted, some).mean())
                loss = loss + 0.001 * guess.square().mean()
                if z is not None:
                    loss = loss + 0.1 * functional.mse_loss(guess, z)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
            nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            optimizer.step()
            schedule.step()


class Encoder(nn.Module):
    """Releases (N, ...) -> z (N, latent): convolutions where they lie on a grid, then dense layers.

    Args:
        feature_shape: releases without the batch axis.
        image_shape: (3, H, W).
        latent: dimensions of z.
    """

    def __init__(self, feature_shape: tuple[int, ...], image_shape: tuple[int, int, int], latent: int) -> None:
        super().__init__()
        self.image_size = (image_shape[1], image_shape[2])
        self.whitening = Whitening(feature_shape)
        grid = features_on_grid(torch.empty(1, *feature_shape, device="meta"), self.image_size)
        values = torch.empty(feature_shape, device="meta").numel()
        width = ENCODER_WIDTH
        self.look = (
            nn.Sequential(
                nn.Conv2d(grid.shape[1], width, 3, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, width, 3, padding=1),
                nn.LeakyReLU(0.2),
                nn.AdaptiveAvgPool2d(4),
            )
            if grid is not None
            else None
        )
        entering = width * 16 if self.look is not None else values
        self.dense = nn.Sequential(
            nn.Flatten(), nn.Linear(entering, 4 * width), nn.LeakyReLU(0.2), nn.Linear(4 * width, latent)
        )

    def forward(self, released: Tensor) -> Tensor:
        """(N, ...) -> (N, latent)."""
        units = self.whitening(released)
        grid = features_on_grid(units, self.image_size) if self.look is not None else None
        z: Tensor = self.dense(units if grid is None or self.look is None else self.look(grid))
        return z


def within_l1_ball(shift: Tensor, radius: float) -> Tensor:
    """The nearest point of the l1 ball whose mean absolute value is `radius`, row by row, (N, ...) -> (N, ...).

    Duchi et al. 2008, "Efficient projections onto the l1-ball for learning in high dimensions".
    """
    rows = shift.flatten(1)
    size = rows.abs()
    limit = radius * rows.shape[1]
    ordered = size.sort(1, descending=True).values
    excess = (ordered.cumsum(1) - limit) / torch.arange(1, rows.shape[1] + 1, device=rows.device)
    threshold = torch.where(ordered > excess, excess, -torch.inf).amax(1, keepdim=True).clamp_min(0)
    return (rows.sign() * (size - threshold).clamp_min(0)).view_as(shift)


def _rows(figures: Tensor, like: Tensor) -> Tensor:
    """One figure a row, (N,), to go with (N, ...)."""
    return figures.view(-1, *[1] * (like.ndim - 1))
