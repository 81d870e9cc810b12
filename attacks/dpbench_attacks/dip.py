"""An untrained network as the prior: its weights are searched until what it paints releases the same features."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.attack import Attack, Observation
from dpbench.contract.threat import Needs
from dpbench.machine.devices import autocast, place
from dpbench.metrics.fidelity import ssim_unchecked
from dpbench.plugins.registry import register
from dpbench.toolkit.inversion import (
    converged,
    initialise,
    pooled,
    total_variation,
    victim_releases,
    victims_per_batch,
)
from dpbench.toolkit.release_match import ReleaseMatch, study_client
from dpbench.toolkit.view import viewed

SMALLEST = 4
"""Pixels a side below which nothing is halved further."""

SKIP = 4
"""Channels of each shortcut."""

INPUT = 32
"""Channels of the noise that the network paints from."""

JITTER = ((0.4, 1.0), (0.6, 0.3), (0.8, 0.1), (1.0, 0.0))
"""Up to this share of the steps, noise of this size, relative to the input's, is added to the input anew each time."""

POINTS = 40
"""Of the curve that is kept of the first victims' search."""

EVERY = 20
"""Steps from one look at the auxiliary images to the next."""

AVERAGE = 0.95
"""Decay of the mean of the images over the steps: single ones hop."""

FALL = 0.4
"""Share of the steps, the last ones, in which the learning rate falls: at its full size images hop."""

AT_ONCE = 64
"""Networks that are searched at once, at most."""


@register
class DeepImagePrior(Attack):
    """Searches the weights of an untrained skip network, one for each victim, so that its image releases the same.

    Ulyanov et al. 2018, "Deep image prior"; as an attack on split networks: Li et al. 2023 (GLASS), where it is called
    LM. An hourglass of convolutions with narrow shortcuts paints from fixed noise; Adam on its weights lowers the
    feature distance; jitter of the input, strong at first, keeps it from fitting noise. Differs: the networks of all
    victims of a chunk are one network of grouped convolutions, which takes 0.6 of the time of one that is vmapped over
    their weights, and a third of that of a loop over them (30 networks, 32x32, one core); instance normalisation,
    which is batch normalisation of one image; the image is the mean over the last steps; when to stop is read from
    auxiliary images that are inverted beside the victims, whose pixels the attacker knows, not from the secret; jitter
    is relative to the input. The client is compared with as in `dpbench.toolkit.release_match`; further releases of
    the same victims are pooled.
    """

    name: ClassVar[str] = "dip"
    version: ClassVar[int] = 3
    paper: ClassVar[str] = "https://arxiv.org/abs/1711.10925"
    needs: ClassVar[Needs] = "weights"
    budgets: ClassVar[dict[str, dict[str, float]]] = {"small": {"steps": 0.25}, "large": {"steps": 5, "width": 2}}

    steps: int = Field(1600, ge=1, le=1_000_000, description="Adam steps on the weights")
    learning_rate: float = Field(0.01, gt=0, le=1, description="of the weights; falls over the last steps")
    width: int = Field(32, ge=4, le=512, description="channels at the images' resolution; doubles up to 4 times below")
    total_variation: float = Field(0.05, ge=0, le=100, description="weight of TV (mean absolute difference)")
    trials: int = Field(6, ge=1, le=256, description="auxiliary images that tell when to stop")
    draws: int = Field(2, ge=1, le=64, description="releases averaged in each step, for stochastic clients")

    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """Search one network per victim: (N,3,H,W) in [0,1]."""
        seen = viewed(seen)
        match = study_client(seen, draws=self.draws, generator=generator, search=True)
        truth = seen.auxiliary.images[-self.trials :].to(seen.released.device)
        known = pooled([seen.granted_query()(truth) for _ in victim_releases(seen)])
        size = max(1, min(AT_ONCE, victims_per_batch(seen)) - len(truth))
        everyone = torch.arange(len(match.released), device=match.released.device)
        images, first, last, stops = [], [], [], []
        chunks = everyone.split(size)
        for i, chunk in enumerate(chunks):
            label = f"victims {i + 1}/{len(chunks)}, " if len(chunks) > 1 else ""
            both = replace(match, released=torch.cat([match.released[chunk], known]))
            found, before, after, stop = self._search(both, truth, seen, label, generator)
            images.append(found)
            first.append(before)
            last.append(after)
            stops.append(stop)
        seen.notes["stopped_at"] = stops
        seen.notes["first_feature_loss"] = round(float(torch.cat(first).mean()), 5)
        seen.notes["final_feature_loss"] = round(float(torch.cat(last).mean()), 5)
        seen.notes["converged"] = converged(torch.cat(first), torch.cat(last), match.residual) and not match.blind
        return torch.cat(images)

    def _search(
        self, match: ReleaseMatch, truth: Tensor, seen: Observation, label: str, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """Invert releases of which the last are those of `truth` (T,3,H,W).

        Returns:
            Images (N,3,H,W) of the others, their first and final feature distances (N,), and the step that gave them.
        """
        device, count = match.released.device, len(match.released)
        networks = Hourglasses(count, seen.image_shape, width=self.width)
        initialise(networks, generator)
        place(networks, device).train()
        noise = torch.rand(count, INPUT, *seen.image_shape[1:], generator=generator, device=generator.device).to(device)
        optimizer = torch.optim.Adam(networks.parameters(), self.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share_of_rate(step / self.steps))
        everyone, others = torch.arange(count, device=device), count - len(truth)
        mean: Tensor | None = None
        best, lowest, stop = torch.empty(0), float("inf"), 0
        first = torch.zeros(count, device=device)
        for step in range(self.steps + 1):
            if step % 20 == 0:
                seen.progress(f"{label}step {step}/{self.steps}")
            size = next(size for share, size in JITTER if step <= share * self.steps)
            jitter = torch.randn(noise.shape, generator=generator, device=generator.device).to(device)
            with torch.enable_grad():
                images = networks(noise + size * noise.std() * jitter)
                distance = match.distance(images, everyone, generator)
                loss = distance + self.total_variation * total_variation(images)
                optimizer.zero_grad(set_to_none=True)
                loss.sum().backward()
            found = images.detach()
            mean = found if mean is None else torch.lerp(found, mean, min(AVERAGE, step / (step + 10)))
            if step == 0:
                first = distance.detach()
            if step % math.ceil(self.steps / POINTS) == 0 and (not label or label.startswith("victims 1/")):
                seen.log(step, feature_distance=round(float(distance.detach()[:others].mean()), 4))
            if step % EVERY == 0 or step == self.steps:
                error = float((mean[others:] - truth).square().mean())
                error += 0.2 * (1 - float(ssim_unchecked(mean[others:], truth).mean()))
                if error < lowest or not len(best):
                    best, lowest, stop = mean, error, step
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            last = match.distance(best, everyone, generator)
        return best[:others], first[:others], last[:others], stop


def _share_of_rate(done: float) -> float:
    """Share of the learning rate after this share of the steps: all of it, then down to a fiftieth as a cosine."""
    left = min(1.0, max(0.0, 1 - done) / FALL)
    return 0.02 + 0.98 * (0.5 - 0.5 * math.cos(math.pi * left))


class Hourglasses(nn.Module):
    """Noise (M,32,H,W) -> images (M,3,H,W) in [0,1], each by a network of its own, side by side in groups of channels.

    Args:
        count: M.
        image_shape: (3, H, W).
        width: channels at the images' resolution.
    """

    def __init__(self, count: int, image_shape: tuple[int, int, int], *, width: int) -> None:
        super().__init__()
        self.count = count
        levels = max(1, min(4, int(math.log2(min(image_shape[1:]) / SMALLEST))))
        widths = [INPUT, *(width * 2 ** min(level, 2) for level in range(levels))]
        self.down = nn.ModuleList(
            nn.Sequential(self._block(one, other, 3, stride=2), self._block(other, other, 3))
            for one, other in itertools.pairwise(widths)
        )
        self.skip = nn.ModuleList(self._block(one, SKIP, 1) for one in widths[:-1])
        outputs = [width, *widths[1:-1]]
        self.up = nn.ModuleList(
            nn.Sequential(self._block(below + SKIP, out, 3), self._block(out, out, 1))
            for below, out in zip(widths[1:], outputs, strict=True)
        )
        self.leave = nn.Conv2d(count * width, count * 3, 1, groups=count)

    def _block(self, before: int, after: int, kernel: int, stride: int = 1) -> nn.Module:
        m = self.count
        conv = nn.Conv2d(m * before, m * after, kernel, stride, padding=kernel // 2, groups=m)
        return nn.Sequential(conv, nn.InstanceNorm2d(m * after, affine=True), nn.LeakyReLU(0.2))

    def forward(self, noise: Tensor) -> Tensor:
        """(M,32,H,W) -> (M,3,H,W), fp32."""
        with autocast(noise.device):
            x = noise.reshape(1, -1, *noise.shape[2:])
            kept = []
            for down, skip in zip(self.down, self.skip, strict=True):
                kept.append(skip(x))
                x = down(x)
            for beside, up in zip(reversed(kept), reversed(self.up), strict=True):
                x = functional.interpolate(x, beside.shape[2:], mode="bilinear", align_corners=False)
                both = [part.unflatten(1, (self.count, -1)) for part in (x, beside)]
                x = up(torch.cat(both, 2).flatten(1, 2))
            images: Tensor = self.leave(x).unflatten(1, (self.count, 3))[0]
        return images.float().sigmoid()
