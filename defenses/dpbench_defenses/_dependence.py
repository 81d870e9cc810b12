"""How much a release depends on its image, over a batch: measures that a training can lower."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dpbench.toolkit.inverse_network import features_on_grid

TINY = 1e-12


def distances(batch: Tensor) -> Tensor:
    """Euclidean distances between all pairs of a batch (N, ...) -> (N,N), the diagonal zero; differentiable."""
    rows = batch.flatten(1)
    rows = rows - rows.mean(0)  # squares cancel less near the origin
    lengths = rows.square().sum(1)
    squared = lengths[:, None] + lengths[None] - 2 * rows @ rows.T
    apart = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    # the square root has no gradient at 0
    smallest = TINY + 1e-6 * lengths.detach().mean()
    return torch.where(apart, squared.clamp_min(smallest).sqrt(), 0)


def distance_correlation_squared(one: Tensor, other: Tensor) -> Tensor:
    """dCor^2 of two batches (N, ...) -> () in [0,1]; Székely, Rizzo & Bakirov 2007, from unsquared distances."""
    a, b = (_doubly_centred(distances(batch)) for batch in (one, other))
    return (a * b).mean() / (a.square().mean() * b.square().mean() + TINY).sqrt()


def _doubly_centred(matrix: Tensor) -> Tensor:
    return matrix - matrix.mean(0) - matrix.mean(1, keepdim=True) + matrix.mean()


def pearson_squared(images: Tensor, released: Tensor) -> Tensor:
    """Mean over released channels of the squared correlation with the image's brightness, -> () in [0,1].

    Where features lie on a grid, over its positions, image by image; else over the batch, with the mean brightness.

    Args:
        images: (N,3,H,W).
        released: (N, ...).
    """
    bright = images.mean(1, keepdim=True)
    grid = features_on_grid(released, (images.shape[2], images.shape[3]))
    if grid is None:
        return _correlation(released.flatten(1).T, bright.mean((1, 2, 3))[None]).square().mean()
    small = F.adaptive_avg_pool2d(bright, (grid.shape[2], grid.shape[3]))
    return _correlation(grid.flatten(2), small.flatten(2)).square().mean()


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's correlation along the last dimension."""
    one, other = (values - values.mean(-1, keepdim=True) for values in (one, other))
    return (one * other).mean(-1) / (one.square().mean(-1) * other.square().mean(-1) + TINY).sqrt()
