"""What stands in for a client that nobody may ask, and how far what it gives is from what was heard."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpbench.machine.devices import autocast
from dpbench.toolkit.inverse_network import ResidualBlock, features_on_grid
from dpbench.toolkit.inversion import channel_axis
from dpbench.toolkit.standardising import Standardising
from dpbench.toolkit.surrogate import ReleaseNetwork

KERNELS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Widths of the kernels, relative to the mean distance."""

WIDTH = 64


class Substitute(nn.Module):
    """Images (N,3,H,W) -> releases (N, ...) like those that were heard, with noise of a size that is learned.

    Args:
        feature_shape: releases without the batch axis.
        image_shape: (3, H, W).
    """

    def __init__(self, feature_shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        axis = channel_axis((1, *feature_shape))
        network = ReleaseNetwork(feature_shape, image_shape)
        self.network: nn.Module = network if network.grid is None else _Local(feature_shape, image_shape)
        self.standardising = Standardising(feature_shape, axis)
        shape = [1] * (len(feature_shape) + 1)
        shape[axis] = feature_shape[axis - 1]
        self.noise = nn.Parameter(torch.full(shape, 0.05))

    def units(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Standardised releases (N, ...)."""
        units = self.network(images)
        noise = torch.randn(units.shape, generator=generator, device=generator.device).to(units.device)
        released: Tensor = units + self.noise * noise
        return released


class _Local(nn.Module):
    """Images (N,3,H,W) -> features (N, ...) on a grid, by convolutions alone: what is here in an image stays here."""

    def __init__(self, feature_shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.feature_shape = feature_shape
        self.axis = channel_axis((1, *feature_shape))
        grid = features_on_grid(torch.empty(1, *feature_shape, device="meta"), image_shape[1:])
        assert grid is not None
        self.grid = (grid.shape[2], grid.shape[3])
        halvings = max(0, round(math.log2(min(image_shape[1:]) / min(self.grid))))
        layers: list[nn.Module] = []
        for width, stride in zip((3, *[WIDTH] * halvings), (*[2] * halvings, 1), strict=True):
            layers += [nn.Conv2d(width, WIDTH, 3, stride, padding=1), nn.ReLU(), ResidualBlock(WIDTH)]
        self.body = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(WIDTH, grid.shape[1], 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        """(N,3,H,W) in [0,1] -> (N, *feature_shape)."""
        with autocast(images.device):
            grid = functional.adaptive_avg_pool2d(self.body(images * 2 - 1), self.grid)
        units: Tensor = grid.float().flatten(2).movedim(1, self.axis if self.axis != 3 else -1)
        return units.reshape(-1, *self.feature_shape)


def mmd(one: Tensor, other: Tensor) -> Tensor:
    """Squared maximum mean discrepancy (Gretton et al. 2012) of (N, ...) and (M, ...), over `KERNELS`, ()."""
    rows = torch.cat([one.flatten(1), other.flatten(1)])
    squares = torch.cdist(rows, rows).square()
    unit = squares.detach().mean()
    kernels = torch.stack([torch.exp(-squares / (width * unit)) for width in KERNELS]).mean(0)
    n = len(one)
    return kernels[:n, :n].mean() + kernels[n:, n:].mean() - 2 * kernels[:n, n:].mean()
