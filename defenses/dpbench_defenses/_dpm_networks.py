"""The networks of `dpm`: the module itself, and what it is trained against, for features of any layout."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpbench.toolkit.inversion import channel_axis

FLAT_CHANNELS = 32
FLAT_SIDE = 8
"""The grid on which reconstructors lay flat features."""


class ConvBlock(nn.Module):
    """x + conv(relu(conv(norm(x)))), (N,C,H,W) -> the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.expand = nn.Conv2d(width, width, 3, padding=1)
        self.project = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,C,H,W)."""
        y: Tensor = x + self.project(F.relu(self.expand(self.norm(x))))
        return y


class TokenBlock(nn.Module):
    """A pre-norm transformer block, (N,L,C) -> the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = next(heads for heads in (8, 4, 3, 2, 1) if width % heads == 0)
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.project = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N,L,C) -> (N,L,C)."""
        n, length, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width)
        x = x + self.mix(attended)
        y: Tensor = x + self.project(F.relu(self.expand(self.norm(x))))
        return y


class Waist(nn.Module):
    """Few channels on a coarse grid: (N,C,H,W) -> the same shape through channels * grid**2 values an image.

    Averaging down and bilinear resizing up are one linear map for rows and one for columns. Written as matrix
    products, because the backward passes of the pooling and resizing kernels are not deterministic on CUDA.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, shape: tuple[int, ...], channels: int, grid: int) -> None:
        super().__init__()
        width, height, breadth = shape
        self.narrow = nn.Conv2d(width, channels, 3, padding=1)
        self.widen = nn.Conv2d(channels, width, 1)
        self.register_buffer("rows", coarse(height, grid), persistent=False)
        self.register_buffer("columns", coarse(breadth, grid), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,C,H,W)."""
        y: Tensor = self.widen(self.rows @ self.narrow(x) @ self.columns.T)
        return y


def coarse(size: int, grid: int) -> Tensor:
    """(size,size) matrix of rank min(size,grid): averages a line down to `grid` cells and resizes it back."""
    if grid >= size:
        return torch.eye(size)
    down = F.adaptive_avg_pool1d(torch.eye(size)[None], grid)[0]
    up = F.interpolate(torch.eye(grid)[None], size, mode="linear")[0]
    return (down @ up).T


class Permute(nn.Module):
    """Another order of the dimensions."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, ...)."""
        return x.permute(self.dims).contiguous()


class Chunks(nn.Module):
    """Flat features (N,D) -> about sqrt(D) tokens of about sqrt(D) values, which know their places."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.width = max(8, 2 ** round(math.log2(math.sqrt(values))))
        length = math.ceil(values / self.width)
        self.missing = length * self.width - values
        self.places = nn.Parameter(torch.zeros(length, self.width))

    def forward(self, x: Tensor) -> Tensor:
        """(N,D) -> (N,L,C)."""
        tokens: Tensor = F.pad(x, (0, self.missing)).unflatten(1, (-1, self.width)) + self.places
        return tokens


class Unchunk(nn.Module):
    """Tokens -> flat features, what `Chunks` had padded left out."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.values = values

    def forward(self, x: Tensor) -> Tensor:
        """(N,L,C) -> (N,D)."""
        return x.flatten(1)[:, : self.values]


def channels_last(shape: tuple[int, ...]) -> bool:
    """Whether the features of one image are (H,W,C)."""
    return len(shape) == 3 and channel_axis((1, *shape)) == 3


def poisoning_module(shape: tuple[int, ...], blocks: int, channels: int, grid: int) -> nn.Sequential:
    """Residual blocks at the width of the features, with a waist half way.

    Args:
        shape: (C,H,W), (H,W,C), (L,C) or (D,) of the features.
        blocks: residual blocks, before and after the waist together.
        channels: of the waist; 0 leaves it out.
        grid: side of the waist in positions. Tokens keep their number.
    """
    if len(shape) == 1:
        chunks = Chunks(shape[0])
        within = poisoning_module(tuple(chunks.places.shape), blocks, channels, grid)
        return nn.Sequential(chunks, *within, Unchunk(shape[0]))
    if channels_last(shape):
        within = poisoning_module((shape[2], shape[0], shape[1]), blocks, channels, grid)
        return nn.Sequential(Permute(0, 3, 1, 2), *within, Permute(0, 2, 3, 1))
    first = (blocks + 1) // 2
    if len(shape) == 2:
        width = shape[1]
        tokens: list[nn.Module] = [TokenBlock(width) for _ in range(blocks)]
        waist: list[nn.Module] = [nn.Linear(width, channels), nn.Linear(channels, width)] if channels else []
        return nn.Sequential(*tokens[:first], *waist, *tokens[first:], nn.Linear(width, width))
    width = shape[0]
    maps: list[nn.Module] = [ConvBlock(width) for _ in range(blocks)]
    waist = [Waist(shape, channels, grid)] if channels else []
    return nn.Sequential(*maps[:first], *waist, *maps[first:], nn.Conv2d(width, width, 3, padding=1))


class Reconstructor(nn.Module):
    """What the module is trained against: residual blocks at the features' resolution, then pixel-shuffle.

    Args:
        shape: (C,H,W), (H,W,C), (L,C) or (D,) of the features. Tokens are mixed by attention, then laid on their square
            grid; flat features are brought to a small grid by two linear layers.
        image_shape: (3, H, W) of the images.
        width: channels of the residual blocks.
        depth: how many of them.
    """

    def __init__(self, shape: tuple[int, ...], image_shape: tuple[int, int, int], width: int, depth: int) -> None:
        super().__init__()
        self.image_size = image_shape[1:]
        self.to_grid: nn.Module | None = None
        if channels_last(shape):
            self.to_grid = Permute(0, 3, 1, 2)
            shape = (shape[2], shape[0], shape[1])
        elif len(shape) == 1:
            small = (FLAT_CHANNELS, FLAT_SIDE, FLAT_SIDE)
            hidden = min(shape[0], 256)
            self.to_grid = nn.Sequential(
                nn.Linear(shape[0], hidden), nn.ReLU(), nn.Linear(hidden, math.prod(small)), nn.Unflatten(1, small)
            )
            shape = small
        is_map = len(shape) == 3
        channels, self.side = (shape[0], shape[1]) if is_map else (shape[1], math.isqrt(shape[0]))
        self.tokens = None if is_map else TokenBlock(channels)
        factor = max(1, math.ceil(max(self.image_size) / self.side))
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            *(ConvBlock(width) for _ in range(depth)),
            nn.Conv2d(width, 3 * factor * factor, 3, padding=1),
            nn.PixelShuffle(factor),
        )

    def forward(self, released: Tensor) -> Tensor:
        """Released features (N, ...) -> (N,3,H,W) float32 in [0,1]."""
        x = released if self.to_grid is None else self.to_grid(released)
        if self.tokens is not None:
            # class and register tokens stand before the patches; attention has mixed them in
            patches = self.tokens(x)[:, -(self.side**2) :]
            x = patches.transpose(1, 2).unflatten(2, (self.side, self.side))
        images: Tensor = self.body(x)
        height, breadth = self.image_size  # where the features' side does not divide it, the rest is cut off
        return images[:, :, :height, :breadth].float().sigmoid()
