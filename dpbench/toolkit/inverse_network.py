"""The network that attacks train to turn released features into images, what it learns from, and what judges it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.images import Images
from dpbench.service.release import RELEASE_BATCH
from dpbench.toolkit.inversion import Whitening, channel_axis, initialise

MAX_PREFIX_TOKENS = 16
WIDE_GRID = 32
"""Side of the largest grid on which residual blocks have the full width; a finer one has as many times fewer
channels, or an image of 224 pixels would take fifty times the time of one of 32."""
NARROWEST = 32
SUMMARY = 256


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


class FeatureInverse(nn.Module):
    """What networks from released features to images share: how features enter and images leave.

    Args:
        feature_shape: released features without the batch axis.
        image_shape: (3, H, W).
    """

    image_mean: Tensor

    def __init__(self, feature_shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.image_size = (image_shape[1], image_shape[2])
        self.feature_shape = feature_shape
        self.whitening = Whitening(feature_shape)
        self.register_buffer("image_mean", torch.full((1, 3, 1, 1), 0.5))

    def standardise(self, released: Tensor, images: Tensor) -> None:
        """Take the statistics of the input from released features, and of the output from images."""
        self.whitening.fit(released)
        self.image_mean.copy_(images.mean((0, 2, 3), keepdim=True))

    def resize(self, images: Tensor) -> Tensor:
        """Images (N,3,h,w) in the size that the network gives, (N,3,H,W)."""
        if images.shape[2:] == self.image_size:
            return images
        return functional.interpolate(images, self.image_size, mode="bilinear", align_corners=False)


class InverseNetwork(FeatureInverse):
    """Released features of any layout -> images.

    Conv features enter as they are; tokens that form a grid become one (prefix tokens such as a class token are
    summarised and added everywhere); flat features and tokens without a grid go through a linear layer to a small grid.
    From there, residual blocks and pixel-shuffle up to half the image's resolution, then pixel-shuffle to pixels.

    Args:
        feature_shape: released features without the batch axis.
        image_shape: (3, H, W).
        width: channels at the resolution of the features, fewer beyond `WIDE_GRID`; halves at each doubling, not
            below 32.
        blocks: residual blocks at each resolution.
    """

    def __init__(
        self, feature_shape: tuple[int, ...], image_shape: tuple[int, int, int], *, width: int, blocks: int
    ) -> None:
        super().__init__(feature_shape, image_shape)
        self.axis = channel_axis((1, *feature_shape))

        layout = _layout(feature_shape, self.image_size)
        width = min(width, max(NARROWEST, width * WIDE_GRID // max(WIDE_GRID, *layout.grid)))
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
            narrower = max(min(NARROWEST, width), width // 2)
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
        """Take the statistics of both ends, and start every branch small."""
        super().standardise(released, images)
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
        detail = self.resize(self.to_pixels(self.body(x)))
        coarse = self.resize(functional.pixel_shuffle(self.linear(grid), self.linear_factor))
        images: Tensor = detail + coarse + self.image_mean
        return images

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


class Adversary:
    """A critic that learns, step by step, to tell images that are decoded from true ones, patch by patch.

    Dosovitskiy & Brox 2016, "Generating images with perceptual similarity metrics based on deep networks" (DeePSiM).
    Differs: hinge loss, and a score for each patch of some 16 pixels (Isola et al. 2017).

    Args:
        generator: draws the first weights.
        device: where the images are.
    """

    def __init__(self, generator: torch.Generator, device: torch.device) -> None:
        layers: list[nn.Module] = []
        for before, after in ((3, NARROWEST), (NARROWEST, 2 * NARROWEST), (2 * NARROWEST, 2 * NARROWEST)):
            layers += [nn.Conv2d(before, after, 3, 2 if before != 2 * NARROWEST else 1, 1), nn.LeakyReLU(0.2)]
        self.critic = nn.Sequential(*layers, nn.Conv2d(2 * NARROWEST, 1, 1))
        initialise(self.critic, generator)
        self.critic.to(device)
        self.optimizer = torch.optim.Adam(self.critic.parameters(), 2e-4, betas=(0.5, 0.99))

    def judged(self, decoded: Tensor, true: Tensor) -> Tensor:
        """How little decoded images (N,3,H,W) are taken for true ones, (); the critic takes a step."""
        loss = functional.relu(1 - self.critic(true)).mean() + functional.relu(1 + self.critic(decoded.detach())).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.critic.requires_grad_(False)
        score: Tensor = -self.critic(decoded).mean()
        self.critic.requires_grad_(True)
        return score


class HeldOut:
    """The best weights so far, judged by images left aside: with few images a long training learns those by heart.

    Args:
        images: (N,3,H,W) in [0,1], that no step of the training sees.
        query: images (n,3,H,W) -> releases (n, ...); asked once.
        apply: a network in eval mode, and releases (N, ...) -> images (N,3,H,W) in [0,1].
        loss: images that came back and the true ones, (N,3,H,W) twice -> ().

    Attributes:
        loss: () of the best so far; infinite before the first.
        state: its weights and buffers, by name; empty before the first.
    """

    def __init__(
        self,
        images: Tensor,
        query: Callable[[Tensor], Tensor],
        apply: Callable[[nn.Module, Tensor], Tensor],
        loss: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self._images = images
        self._released = torch.cat([query(chunk) for chunk in images.split(RELEASE_BATCH)])
        self._apply = apply
        self._loss = loss
        self.loss = torch.full((), torch.inf, device=images.device)
        self.state: dict[str, Tensor] = {}

    @torch.no_grad()
    def judge(self, network: nn.Module, mean: Mapping[str, Tensor]) -> None:
        """Keep the network's weights, or in their place those of `mean`, if they do better; it trains on as it was."""
        candidate = copy.deepcopy(network).eval()
        candidate.load_state_dict(dict(mean), strict=False)
        loss = self._loss(self._apply(candidate, self._released), self._images)
        if not self.state or loss < self.loss or self.loss.isnan():  # the first even where it is no number
            self.loss, self.state = loss, candidate.state_dict()


def flipped_batches(images: Images, size: int, generator: torch.Generator, *, apart: int = 0) -> Iterator[Tensor]:
    """Batches without end: every pass in a new order, each image mirrored with probability 1/2.

    Args:
        images: (N,3,H,W) in [0,1].
        size: images in a batch; what is left of a pass is left out.
        generator: draws order and flips.
        apart: so many, from the first on, are never drawn.

    Yields:
        (size,3,H,W) in [0,1], on the images' device.
    """
    while True:
        order = torch.randperm(len(images) - apart, generator=generator, device=generator.device) + apart
        order = order.to(images.device)
        for number in range(len(order) // size):
            chosen = images[order[number * size : (number + 1) * size]]
            flip = torch.rand(len(chosen), 1, 1, 1, generator=generator, device=generator.device) < 0.5
            yield torch.where(flip.to(chosen.device), chosen.flip(3), chosen)


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


def features_on_grid(features: Tensor, image_size: tuple[int, int]) -> Tensor | None:
    """Features (N, ...) as (N,C,h,w), without prefix tokens; None where they do not lie on a grid."""
    layout = _layout(tuple(features.shape[1:]), image_size)
    if layout.kind == "flat":
        return None
    if layout.kind == "tokens":
        grid: Tensor = features[:, layout.prefix :].transpose(1, 2).unflatten(2, layout.grid)
        return grid
    return features.permute(0, 3, 1, 2) if channel_axis(tuple(features.shape)) == 3 else features
