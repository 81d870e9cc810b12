"""From what a decoder paints to what images look like: a rectified flow, conditioned on the release."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.attack import Attack, Observation
from dpbench.contract.threat import Needs
from dpbench.machine.devices import autocast, place
from dpbench.models.training import average_weights, one_cycle
from dpbench.plugins.registry import register
from dpbench.text.hashing import content_hash
from dpbench.toolkit.inverse_network import features_on_grid
from dpbench.toolkit.inverse_training import InverseTraining
from dpbench.toolkit.inversion import Whitening, images_for_statistics, initialise, pooled, victim_releases
from dpbench.toolkit.view import viewed

EMA_DECAY = 0.995
FREQUENCIES = 4
"""Of the sines and cosines in which the network is told the time."""

SMALLEST = 4
"""Pixels a side below which nothing is halved further."""

CONVERGED = 0.97
"""Share of the loss of no flow at all below which something was learned: what a decoder leaves is hard to guess."""


@register
class RectifiedFlow(Attack):
    """Moves a decoder's image along a learned flow to an image that could have been the victim's: sharper than a mean.

    Liu et al. 2023, "Flow straight and fast: learning to generate and transfer data with rectified flow"; Ren et al.
    2025, "FIA-Flow", which takes flows from what a decoder gives to natural images (known to us by its abstract
    alone). A network learns the velocity x - x_0 at x_t = (1 - t) x_0 + t x, where x_0 is what the decoder of
    `decoder` makes of the release of x, plus noise; a few Euler steps lead from the victims' x_0 to images. Differs: no
    pre-trained model, a small U-Net trained on the auxiliary images and their fresh releases; it sees the decoder's
    image and the whitened release beside x_t; weights are averaged. A single image is drawn, so PSNR may fall below
    the decoder's where the release leaves much open, while LPIPS gains.
    """

    name: ClassVar[str] = "flow"
    paper: ClassVar[str] = "https://arxiv.org/abs/2209.03003"
    needs: ClassVar[Needs] = "query"
    budgets: ClassVar[dict[str, dict[str, float]]] = {
        size: {"steps": factor, "width": width} | InverseTraining.budget_of_part(size)
        for size, factor, width in (("small", 0.25, 0.5), ("large", 3, 1.5))
    }

    steps: int = Field(2000, ge=1, le=1_000_000, description="of training the flow")
    learning_rate: float = Field(2e-3, gt=0, le=0.1, description="likewise, peak of the one-cycle schedule, AdamW")
    width: int = Field(64, ge=4, le=512, description="channels of the flow's network at the images' resolution")
    batch_size: int = Field(32, ge=2, le=1024, description="auxiliary images per step")
    noise: float = Field(0.1, ge=0, le=2, description="std of what is added to the decoder's image")
    euler_steps: int = Field(6, ge=1, le=1000, description="from the decoder's image to the final one")
    decoder_steps: int = Field(800, ge=1, le=100_000, description="of the decoder, as in `decoder`")
    decoder_width: int = Field(128, ge=8, le=1024, description="likewise")
    decoder_blocks: int = Field(2, ge=1, le=32, description="likewise")
    decoder_batch_size: int = Field(64, ge=2, le=4096, description="likewise")

    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """Train (or remember) decoder and flow, then follow it: (N,3,H,W) in [0,1]."""
        seen = viewed(seen)
        releases = victim_releases(seen)
        released = pooled(releases)
        decoder = InverseTraining.of(self).within(seen)
        inverse = decoder.trained(seen)
        query = seen.granted_query()

        @torch.no_grad()
        def started(images: Tensor) -> tuple[Tensor, Tensor]:
            """Pooled releases of images, and what the decoder makes of them."""
            answers = pooled([query(images) for _ in releases])
            return answers, decoder.apply(inverse, answers)

        network = Velocity(tuple(released.shape[1:]), seen.image_shape, width=self.width)
        batch = seen.auxiliary.training_batch(self.batch_size)
        own = [self.model_dump(exclude={"euler_steps"}), batch, tuple(released.shape[1:]), seen.image_shape]

        def train(train_generator: torch.Generator) -> dict[str, Tensor]:
            return self._train(network, started, seen, batch, train_generator)

        # 2: before, what is no parameter was averaged too, which could be NaN
        state = dict(seen.remember(f"flow-2-{content_hash([*own, len(releases)])[:16]}", train, "query"))
        none, reached = float(state.pop("none")), float(state.pop("reached"))
        network.load_state_dict(state)
        place(network, released.device).eval().requires_grad_(False)
        seen.notes["decoder_converged"] = seen.notes["converged"]
        seen.notes["flow_loss"], seen.notes["no_flow_loss"] = round(reached, 5), round(none, 5)
        seen.notes["converged"] = bool(seen.notes["converged"]) or reached < CONVERGED * none
        start = decoder.apply(inverse, released)
        noise = torch.randn(start.shape, generator=generator, device=generator.device).to(start.device)
        chunks = zip(*(values.split(batch) for values in (start, noise, released)), strict=True)
        return torch.cat([self._follow(network, *chunk) for chunk in chunks])

    def _follow(self, network: Velocity, start: Tensor, noise: Tensor, released: Tensor) -> Tensor:
        """Euler steps from the decoder's images (N,3,H,W), to images in [0,1]."""
        images = start + self.noise * noise
        with torch.no_grad():
            for step in range(self.euler_steps):
                time = torch.full((len(images),), step / self.euler_steps, device=images.device)
                images = images + network(images, time, start, released) / self.euler_steps
        return images.clamp(0, 1)

    def _train(
        self,
        network: Velocity,
        started: Callable[[Tensor], tuple[Tensor, Tensor]],
        seen: Observation,
        batch: int,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """The averaged weights; and the loss of no flow at all and that of the last tenth of the steps, each ()."""
        device, images = seen.released.device, seen.auxiliary.images
        initialise(network, generator)
        place(network, device).train()
        known = images[: images_for_statistics(tuple(seen.released.shape[1:]), least=256)].to(device)
        network.whitening.fit(torch.cat([started(some)[0] for some in known.split(max(batch, 128))]))
        optimizer = torch.optim.AdamW(network.parameters(), self.learning_rate, weight_decay=1e-3)
        schedule = one_cycle(optimizer, self.learning_rate, steps=self.steps, rise=0.15)
        average = {name: value.detach().clone() for name, value in network.state_dict().items()}
        last = max(1, self.steps // 10)
        none, reached = torch.zeros((), device=device), torch.zeros((), device=device)

        def drawn(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=generator.device).to(device)

        for step in range(self.steps):
            if step % 20 == 0:
                seen.progress(f"flow step {step}/{self.steps}")
            chosen = torch.randint(len(images), (batch,), generator=generator, device=generator.device)
            some = images[chosen.to(images.device)].to(device)
            some = torch.where(drawn(batch, 1, 1, 1) < 0.5, some.flip(3), some)
            released, start = started(some)
            noise = torch.randn(some.shape, generator=generator, device=generator.device).to(device)
            origin, time = start + self.noise * noise, drawn(batch)
            moved = origin + time[:, None, None, None] * (some - origin)
            with torch.enable_grad():
                loss = (network(moved, time, start, released) - (some - origin)).square().mean()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step >= self.steps - last:
                # no flow at all but back to the decoder's image
                none += (some - start).square().mean() / last
                reached += loss.detach() / last
            # of parameters alone: what else there is was fitted above, and is infinite for values that never vary
            average_weights(average, network, step, EMA_DECAY)
        return {**average, "none": none, "reached": reached}


class Velocity(nn.Module):
    """Images on their way, the time, the decoder's images and releases -> velocities: a U-Net of three resolutions.

    Args:
        feature_shape: releases without the batch axis; those that lie on no grid are seen through the decoder alone.
        image_shape: (3, H, W).
        width: channels at the images' resolution, twice as many below.
    """

    def __init__(self, feature_shape: tuple[int, ...], image_shape: tuple[int, int, int], *, width: int) -> None:
        super().__init__()
        self.image_size = (image_shape[1], image_shape[2])
        self.whitening = Whitening(feature_shape)
        grid = features_on_grid(torch.empty(1, *feature_shape, device="meta"), self.image_size)
        self.look = nn.Conv2d(grid.shape[1], 2 * width, 3, padding=1) if grid is not None else None
        self.enter = nn.Conv2d(6, width, 3, padding=1)
        levels = max(0, min(2, int(math.log2(min(self.image_size) / SMALLEST))))
        widths = [width, *[2 * width] * levels]
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(nn.Conv2d(one, other, 3, stride=2, padding=1) for one, other in pairs)
        self.before = nn.ModuleList(_Timed(channels) for channels in widths)
        self.middle = _Timed(widths[-1])
        self.shown = nn.Conv2d(2 * width, widths[-1], 1)
        self.up = nn.ModuleList(nn.Conv2d(other, one, 3, padding=1) for one, other in reversed(pairs))
        self.after = nn.ModuleList(_Timed(channels) for channels in reversed(widths))
        self.leave = nn.Sequential(nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, images: Tensor, time: Tensor, start: Tensor, released: Tensor) -> Tensor:
        """(N,3,H,W), (N,) in [0,1], (N,3,H,W), (N, ...) -> (N,3,H,W), fp32."""
        told = _waves(time)
        seen = features_on_grid(self.whitening(released), self.image_size) if self.look is not None else None
        with autocast(images.device):
            x = self.enter(torch.cat([images * 2 - 1, start * 2 - 1], 1))
            kept = []
            for place_in, block in enumerate(self.before):
                x = block(self.down[place_in - 1](x) if place_in else x, told)
                kept.append(x)
            if seen is not None and self.look is not None:
                shown = functional.interpolate(self.look(seen), x.shape[2:], mode="bilinear", align_corners=False)
                x = x + self.shown(shown)
            x = self.middle(x, told)
            for place_in, block in enumerate(self.after):
                beside = kept.pop()
                if place_in:
                    x = functional.interpolate(x, beside.shape[2:], mode="nearest")
                    x = self.up[place_in - 1](x)
                x = block(x + beside, told)
            velocity: Tensor = self.leave(x)
        return velocity.float()


class _Timed(nn.Module):
    """x + conv(silu(conv(silu(x)) + time)), the second convolution small at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.told = nn.Linear(2 * FREQUENCIES, width)
        self.gain = nn.Parameter(torch.full((), 0.2))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """(N,C,h,w), (N, 2 FREQUENCIES) -> (N,C,h,w)."""
        y = self.first(functional.silu(x)) + self.told(told)[:, :, None, None]
        moved: Tensor = x + self.gain * self.second(functional.silu(y))
        return moved


def _waves(time: Tensor) -> Tensor:
    """Times (N,) in [0,1] as sines and cosines, (N, 2 FREQUENCIES)."""
    angles = time[:, None] * math.pi * 2.0 ** torch.arange(FREQUENCIES, device=time.device)
    return torch.cat([angles.sin(), angles.cos()], 1)
