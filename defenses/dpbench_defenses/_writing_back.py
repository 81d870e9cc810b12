"""Networks that write a code back into features of any layout: of `resynthesis` and `waist`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dpbench_defenses._dpm_networks import ConvBlock, Permute, TokenBlock, channels_last

NARROW, WIDE = 64, 128
"""Channels of the residual blocks at the side of the features, and on the way there."""

TOKEN_WIDTH = 192
"""Of the attention blocks, at most."""

HIDDEN = 256
"""Between a code and flat features."""


def writer(code_shape: tuple[int, ...], shape: tuple[int, ...]) -> nn.Sequential:
    """Code (N, *code_shape) -> features (N, *shape), both standardised.

    For maps: pixel-shuffle by pixel-shuffle up to their side, a residual block after each; for tokens two attention
    blocks; for flat features two linear layers.

    Args:
        code_shape: (C,H,W), (H,W,C), (L,C) or (D,).
        shape: as `code_shape`.
    """
    if len(shape) == 1:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(code_shape), HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, shape[0])
        )
    if len(shape) == 2:
        return _tokens(code_shape, shape)
    if channels_last(shape):
        return nn.Sequential(*_maps(code_shape, (shape[2], *shape[:2])), Permute(0, 2, 3, 1))
    return _maps(code_shape, shape)


def _maps(code_shape: tuple[int, ...], shape: tuple[int, ...]) -> nn.Sequential:
    laid, (width, height, breadth) = _as_maps(code_shape)
    doublings = max(0, math.ceil(math.log2(max(shape[1] / height, shape[2] / breadth))))
    layers: list[nn.Module] = [laid]
    for doubling in range(doublings):
        next_width = NARROW if doubling == doublings - 1 else WIDE
        layers += [nn.Conv2d(width, 4 * next_width, 1), nn.PixelShuffle(2), ConvBlock(next_width)]
        width = next_width
    if not doublings:
        layers += [nn.Conv2d(width, NARROW, 1)]
    return nn.Sequential(
        *layers, ConvBlock(NARROW), nn.Conv2d(NARROW, shape[0], 3, padding=1), CutTo(shape[1], shape[2])
    )


def _as_maps(shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
    """What lays a code out as maps, and their (C,H,W)."""
    if len(shape) == 1:
        return nn.Unflatten(1, (shape[0], 1, 1)), (shape[0], 1, 1)
    if len(shape) == 2:
        side = math.isqrt(shape[0])
        return TokensAsMaps(side), (shape[1], side, side)
    if channels_last(shape):
        return Permute(0, 3, 1, 2), (shape[2], shape[0], shape[1])
    return nn.Identity(), shape


def _tokens(code_shape: tuple[int, ...], shape: tuple[int, ...]) -> nn.Sequential:
    laid, (length, channels) = _as_tokens(code_shape)
    width = min(shape[1], TOKEN_WIDTH)
    return nn.Sequential(
        laid,
        nn.Linear(channels, width),
        Places(length, shape[0], width),
        TokenBlock(width),
        TokenBlock(width),
        nn.LayerNorm(width),
        nn.Linear(width, shape[1]),
    )


def _as_tokens(shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, int]]:
    """What lays a code out as tokens, and their (L,C)."""
    if len(shape) == 1:
        return nn.Unflatten(1, (1, shape[0])), (1, shape[0])
    if len(shape) == 2:
        return nn.Identity(), (shape[0], shape[1])
    if channels_last(shape):
        return nn.Flatten(1, 2), (shape[0] * shape[1], shape[2])
    return nn.Sequential(nn.Flatten(2), Permute(0, 2, 1)), (shape[1] * shape[2], shape[0])


class TokensAsMaps(nn.Module):
    """The last side**2 tokens on their grid, (N,L,C) -> (N,C,side,side); class tokens stand before them."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, tokens: Tensor) -> Tensor:
        """(N,L,C) -> (N,C,side,side)."""
        patches = tokens[:, -(self.side**2) :].transpose(1, 2)
        return patches.reshape(len(tokens), -1, self.side, self.side)


class Places(nn.Module):
    """Tokens (N,L,C) that know their places; where there must be another number of them, linear maps of the old."""

    def __init__(self, given: int, wanted: int, width: int) -> None:
        super().__init__()
        self.among = nn.Identity() if given == wanted else nn.Linear(given, wanted)
        self.places = nn.Parameter(torch.zeros(wanted, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """(N,L,C) -> (N,wanted,C)."""
        placed: Tensor = self.among(tokens.transpose(1, 2)).transpose(1, 2) + self.places
        return placed


class CutTo(nn.Module):
    """The upper left corner of maps whose side is no power of two of the code's."""

    def __init__(self, height: int, breadth: int) -> None:
        super().__init__()
        self.size = (height, breadth)

    def forward(self, maps: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,C,height,breadth)."""
        return maps[:, :, : self.size[0], : self.size[1]]
