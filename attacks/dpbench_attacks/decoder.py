"""The inverse network: learn from released features of one's own images what the images looked like."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from dpbench.devices import autocast, place
from dpbench.fidelity import lpips, ssim_unchecked
from dpbench.inversion import Whitening, channel_axis, images_for_statistics, initialise, pooled, victim_releases
from dpbench.registry import register
from dpbench.specs import content_hash
from dpbench.types import Attack, Needs, Observation

STATISTICS_IMAGES = 512
MAX_PREFIX_TOKENS = 16
SUMMARY = 256
CONVERGED = 0.9
"""A decoder whose loss is not below this share of the mean image's has learned next to nothing: it failed, or there is
nothing to learn. The attacker cannot tell which, so it tries once more at a lower rate."""

RETRY_RATE = 0.25
"""Share of the learning rate at which a decoder that did not converge starts again."""


@register
class Decoder(Attack):
    """A convolutional inverse network, trained on freshly released features of the auxiliary images.

    Dosovitskiy & Brox 2016, "Inverting visual representations with convolutional networks"; He et al. 2019, "Model
    inversion attacks against collaborative inference", section 5 (black box). Differs from both: residual
    blocks and pixel-shuffle (Shi et al. 2016) in place of transposed convolutions; a linear path beside
    them; L1 plus structural dissimilarity in place of MSE, and LPIPS where it is asked for (DeePSiM, Dosovitskiy & Brox
    2016b, without its adversary); AdamW with a one-cycle schedule; features
    whitened over channels. The client is queried anew for every batch, with random flips, so a
    stochastic defense gives new noise in each epoch and the network learns to see through it. Where the victims
    were released several times, it is queried as often and learns from pooled releases. A training that did not
    converge is repeated once at a lower rate.
    """

    name: ClassVar[str] = "decoder"
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "https://arxiv.org/abs/1506.02753"
    needs: ClassVar[Needs] = "query"
    budgets: ClassVar[dict[str, dict[str, float]]] = {
        "small": {"epochs": 0.5, "width": 0.5, "blocks": 0.5},
        "large": {"epochs": 2, "width": 1.5, "blocks": 2},
    }

    epochs: int = Field(6, ge=1, le=1000, description="passes over the auxiliary images")
    width: int = Field(128, ge=8, le=1024, description="channels at the resolution of the features")
    blocks: int = Field(2, ge=1, le=32, description="residual blocks at each resolution")
    batch_size: int = Field(64, ge=2, le=4096, description="auxiliary images per step")
    learning_rate: float = Field(4e-3, gt=0, le=0.1, description="peak of the one-cycle schedule, AdamW")
    ssim_weight: float = Field(0.2, ge=0, le=10, description="weight of 1 - SSIM beside the L1 distance")
    lpips_weight: float = Field(
        0.0, ge=0, le=10, description="weight of LPIPS; not by default: its weights are not on every machine"
    )

    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """Train (or remember) the inverse network and apply it: (N,3,H,W) in [0,1]."""
        return self.apply(self.trained(seen), pooled(victim_releases(seen)))

    def trained(self, seen: Observation) -> InverseNetwork:
        """The inverse network of this client for pooled releases, in eval mode; what it says of itself is noted."""
        releases = victim_releases(seen)
        released = pooled(releases)
        query = _pooled_query(seen.granted_query(), len(releases))
        shape = tuple(released.shape[1:])
        identity = {
            "version": self.version,
            "parameters": self.model_dump(),
            "features": shape,
            "image": seen.image_shape,
            "releases": len(releases),
        }

        def attempt(train_generator: torch.Generator, rate: float) -> dict[str, Tensor]:
            network = self.network(shape, seen.image_shape)
            initialise(network, train_generator)
            place(network, released.device)
            final_loss = self._train(network, seen, query, rate, train_generator)
            return {**network.state_dict(), "final_loss": final_loss}

        def train(train_generator: torch.Generator) -> dict[str, Tensor]:
            mean_image_loss = self._mean_image_loss(seen)
            state = attempt(train_generator, self.learning_rate)
            retried = not float(state["final_loss"]) < CONVERGED * float(mean_image_loss)
            if retried:
                seen.progress("not converged: once more at a lower rate")
                second = attempt(train_generator, self.learning_rate * RETRY_RATE)
                # by the training loss, which is what the attacker sees; a NaN loses
                if not float(state["final_loss"]) <= float(second["final_loss"]):
                    state = second
            return {**state, "mean_image_loss": mean_image_loss, "retried": torch.tensor(float(retried))}

        name = f"decoder-{content_hash(identity)[:16]}"
        state = dict(seen.remember(name, train, "query", owner=Decoder))
        final_loss, mean_image_loss, retried = (
            float(state.pop(name)) for name in ("final_loss", "mean_image_loss", "retried")
        )
        seen.notes["final_loss"] = round(final_loss, 5)
        seen.notes["mean_image_loss"] = round(mean_image_loss, 5)
        seen.notes["converged"] = final_loss < CONVERGED * mean_image_loss
        if retried:
            seen.notes["retried"] = True
        network = self.network(shape, seen.image_shape)
        network.load_state_dict(state)
        return place(network, released.device).eval().requires_grad_(False)

    def network(self, feature_shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> InverseNetwork:
        """The untrained network for features (N, *feature_shape) and images (N, *image_shape)."""
        return InverseNetwork(feature_shape, image_shape, width=self.width, blocks=self.blocks)

    def apply(self, network: InverseNetwork, released: Tensor) -> Tensor:
        """Pooled releases (N, ...) -> images (N,3,H,W) in [0,1]."""
        with torch.no_grad(), autocast(released.device):
            images = torch.cat([network(chunk) for chunk in released.split(self.batch_size)])
        return images.float().clamp(0, 1)

    def _train(
        self,
        network: InverseNetwork,
        seen: Observation,
        query: Callable[[Tensor], Tensor],
        learning_rate: float,
        generator: torch.Generator,
    ) -> Tensor:
        """Trains `network` in place; returns the mean loss of the last epoch, ()."""
        device = seen.released.device
        images = seen.auxiliary.images.to(device)
        batch = min(self.batch_size, len(images))
        steps_per_epoch = len(images) // batch
        calibration = images[: images_for_statistics(network.feature_shape, least=STATISTICS_IMAGES)]
        network.standardise(torch.cat([query(chunk).float() for chunk in calibration.split(batch)]), calibration)
        network.train()
        optimizer = torch.optim.AdamW(
            network.parameters(), learning_rate, weight_decay=1e-2, fused=device.type in ("cpu", "cuda")
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, learning_rate, total_steps=self.epochs * steps_per_epoch, pct_start=0.2
        )
        running = torch.zeros((), device=device)
        for epoch in range(self.epochs):
            seen.progress(f"epoch {epoch + 1}/{self.epochs}")
            order = torch.randperm(len(images), generator=generator, device=generator.device).to(device)
            running = torch.zeros((), device=device)
            for step in range(steps_per_epoch):
                chosen = images[order[step * batch : (step + 1) * batch]]
                flip = torch.rand(len(chosen), 1, 1, 1, generator=generator, device=generator.device) < 0.5
                chosen = torch.where(flip.to(device), chosen.flip(3), chosen)
                released = query(chosen)
                with autocast(device):
                    output = network(released.float())
                loss = self._loss(output.float(), chosen)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                running += loss.detach()
        return running / steps_per_epoch

    def _mean_image_loss(self, seen: Observation) -> Tensor:
        """What a network that learned nothing from the features would reach, ()."""
        images = seen.auxiliary.images[:STATISTICS_IMAGES].to(seen.released.device)
        return self._loss(images.mean(0, keepdim=True).expand_as(images), images)

    def _loss(self, output: Tensor, images: Tensor) -> Tensor:
        loss = functional.l1_loss(output, images)
        # clamp: SSIM and LPIPS are about images in [0, 1]; the L1 distance still pulls values back
        if self.ssim_weight:
            loss = loss + self.ssim_weight * (1 - ssim_unchecked(output.clamp(0, 1), images).mean())
        if self.lpips_weight:
            loss = loss + self.lpips_weight * lpips(output.clamp(0, 1), images).mean()
        return loss


def _pooled_query(query: Callable[[Tensor], Tensor], times: int) -> Callable[[Tensor], Tensor]:
    """Images -> what `times` releases of them say together."""
    return lambda images: pooled([query(images) for _ in range(times)])


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), without normalisation; the second convolution starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,h,w) -> (N,C,h,w)."""
        y: Tensor = self.second(functional.relu(self.first(functional.relu(x))))
        return x + self.gain * y


class InverseNetwork(nn.Module):
    """Released features of any layout -> images.

    Conv features enter as they are; tokens that form a grid become one (prefix tokens such as a class token are
    summarised and added everywhere); flat features and tokens without a grid go through a linear layer to a small grid.
    From there, residual blocks and pixel-shuffle up to half the image's resolution, then pixel-shuffle to pixels.

    Args:
        feature_shape: released features without the batch axis.
        image_shape: (3, H, W).
        width: channels at the resolution of the features; halves at each doubling, not below 32.
        blocks: residual blocks at each resolution.
    """

    image_mean: Tensor

    def __init__(
        self, feature_shape: tuple[int, ...], image_shape: tuple[int, int, int], *, width: int, blocks: int
    ) -> None:
        super().__init__()
        self.image_size = (image_shape[1], image_shape[2])
        self.feature_shape = feature_shape
        self.axis = channel_axis((1, *feature_shape))
        self.whitening = Whitening(feature_shape)
        self.register_buffer("image_mean", torch.full((1, 3, 1, 1), 0.5))

        layout = _layout(feature_shape, self.image_size)
        self.kind, self.grid, self.prefix = layout.kind, layout.grid, layout.prefix
        self.summary: nn.Module | None = None
        if layout.kind == "flat":
            values = math.prod(feature_shape)
            small = min(width, 64)
            self.expand: nn.Module | None = nn.Sequential(
                nn.Linear(values, min(values, 512)),
                nn.Linear(min(values, 512), small * layout.grid[0] * layout.grid[1]),
            )
            channels = small
        else:
            self.expand = None
            channels = feature_shape[self.axis - 1]
            if layout.prefix:
                self.summary = nn.Sequential(
                    nn.Linear(layout.prefix * channels, SUMMARY), nn.ReLU(), nn.Linear(SUMMARY, width)
                )
        doublings = max(0, round(math.log2(self.image_size[0] / layout.grid[0]) + 0.4))
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.linear = nn.Conv2d(channels, 3 * 4 ** min(doublings, 4), 3, padding=1)
        self.linear_factor = 2 ** min(doublings, 4)
        stages: list[nn.Module] = []
        for doubling in range(doublings):
            narrower = max(min(32, width), width // 2)
            stages += [ResidualBlock(width) for _ in range(blocks)]
            if doubling < doublings - 1:
                stages += [nn.Conv2d(width, 4 * narrower, 3, padding=1), nn.PixelShuffle(2)]
                width = narrower
        if not doublings:
            stages += [ResidualBlock(width) for _ in range(blocks)]
        self.body = nn.Sequential(*stages)
        factor = 2 if doublings else 1
        self.to_pixels = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, 3 * factor**2, 3, padding=1), nn.PixelShuffle(factor)
        )

    def standardise(self, released: Tensor, images: Tensor) -> None:
        """Take the statistics of the input from released features, and of the output from images."""
        self.whitening.fit(released)
        self.image_mean.copy_(images.mean((0, 2, 3), keepdim=True))
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, ResidualBlock):
                    module.gain.fill_(0.1)
            for last in (self.linear, self.to_pixels[1]):
                assert isinstance(last, nn.Conv2d)
                last.weight.mul_(0.1)

    def forward(self, released: Tensor) -> Tensor:
        """Released features (N, ...) -> images (N,3,H,W), about [0,1] but not clamped."""
        grid, summary = self._to_grid(self.whitening(released))
        x = self.stem(grid)
        if summary is not None:
            x = x + summary[:, :, None, None]
        detail = self._resize(self.to_pixels(self.body(x)))
        coarse = self._resize(functional.pixel_shuffle(self.linear(grid), self.linear_factor))
        images: Tensor = detail + coarse + self.image_mean
        return images

    def _resize(self, images: Tensor) -> Tensor:
        if images.shape[2:] == self.image_size:
            return images
        return functional.interpolate(images, self.image_size, mode="bilinear", align_corners=False)

    def _to_grid(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        height, width = self.grid
        if self.expand is not None:
            return self.expand(x.flatten(1)).unflatten(1, (-1, height, width)), None
        if self.kind == "tokens":
            summary = self.summary(x[:, : self.prefix].flatten(1)) if self.summary is not None else None
            return x[:, self.prefix :].transpose(1, 2).unflatten(2, (height, width)).contiguous(), summary
        if self.axis == 3:
            x = x.permute(0, 3, 1, 2)
        return x.contiguous(memory_format=torch.channels_last), None


class _Layout:
    def __init__(self, kind: str, grid: tuple[int, int], prefix: int = 0) -> None:
        self.kind, self.grid, self.prefix = kind, grid, prefix


def _layout(feature_shape: tuple[int, ...], image_size: tuple[int, int]) -> _Layout:
    """How features lie on a grid, see `InverseNetwork`."""
    small = (max(1, round(image_size[0] / 8)), max(1, round(image_size[1] / 8)))
    small = (min(small[0], 8), min(small[1], 8))
    if len(feature_shape) == 3:
        axis = channel_axis((1, *feature_shape))
        return _Layout("conv", feature_shape[:2] if axis == 3 else feature_shape[1:])
    if len(feature_shape) == 2:
        tokens = feature_shape[0]
        for prefix in range(min(MAX_PREFIX_TOKENS, tokens - 1) + 1):
            rows = round(math.sqrt((tokens - prefix) * image_size[0] / image_size[1]))
            columns = (tokens - prefix) // max(1, rows)
            if rows < 2 or rows * columns != tokens - prefix:
                continue
            if rows * image_size[1] == columns * image_size[0] and image_size[0] % rows == 0:
                return _Layout("tokens", (rows, columns), prefix)
    return _Layout("flat", small)
