"""Features of any layout as positions that hold channels: what defenses that act on positions or channels share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dpbench.toolkit.inverse_network import MAX_PREFIX_TOKENS
from dpbench.toolkit.inversion import channel_axis


def rows_of(features: Tensor) -> Tensor:
    """Features (N, ...) -> what stands at each position, (N,P,C); every value of flat features is a position."""
    if features.ndim == 2:
        return features[:, :, None]
    return features.movedim(channel_axis(tuple(features.shape)), -1).flatten(1, -2)


def laid_as(rows: Tensor, features: Tensor) -> Tensor:
    """The inverse of `rows_of`: rows (N,P,C) in the layout and dtype of `features` (N, ...)."""
    axis = channel_axis(tuple(features.shape))
    shape = features.shape if features.ndim == 2 else features.movedim(axis, -1).shape
    laid = rows.to(features.dtype).reshape(shape)
    return laid if features.ndim == 2 else laid.movedim(-1, axis)


def grid_of(features: Tensor) -> tuple[int, int, int]:
    """How many class and register tokens come first in the rows of features (N, ...), then height and width.

    Tokens that form no square, and flat features, lie in one line.
    """
    if features.ndim == 3:
        side = math.isqrt(features.shape[1])
        prefix = features.shape[1] - side * side
        return (prefix, side, side) if prefix <= MAX_PREFIX_TOKENS and side > 1 else (0, 1, features.shape[1])
    if features.ndim == 2:
        return 0, 1, features.shape[1]
    places = features.movedim(channel_axis(tuple(features.shape)), -1).shape[1:-1]
    return 0, math.prod(places[:-1]), places[-1]


def drawn_places(rows: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """The numbers below `count` in an order of its own for each image of rows (N,P,C): (N,count)."""
    draw = torch.rand(len(rows), count, generator=generator, device=rows.device)
    return draw.argsort(1)
