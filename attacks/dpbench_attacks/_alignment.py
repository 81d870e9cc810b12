"""Maps of the channels of released features: from pairs, or from two sets of which nobody knows what is a pair."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dpbench.toolkit.inverse_network import features_on_grid
from dpbench.toolkit.inversion import channel_axis

PATCHES = 1500
"""Of the turned features, in each round: 3x3 neighbouring places, whose nearest known patch is looked up."""

KNOWN_PATCHES = 8000
"""Those among which it is looked up."""

ROUNDS = 20

SETTLED = 0.05
"""Mean squared length by which a round changes a matrix's columns, below which more rounds change little."""

RANDOM_STARTS = 3
"""Tried after those that moments give."""

FEWEST = 8
"""Fewer images are not turned back: two are kept to judge by, and a map could be fitted to anything."""

ALIKE = 1.1
"""Features are where they belong if they are no farther from the nearest known ones than so many times what other known
ones are."""

SAME_SPECTRUM = 0.3
"""Share of the variance by which two spectra may differ; an orthogonal map changes none."""


@dataclass(frozen=True)
class Map:
    """Rows (..., C) -> rows @ matrix + offset.

    Attributes:
        matrix: (C,C), orthogonal.
        offset: (C,).
    """

    matrix: Tensor
    offset: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Features (N, ...) -> the same, their channels mapped; fp32."""
        axis = channel_axis(tuple(features.shape))
        rows: Tensor = features.float().movedim(axis, -1) @ self.matrix + self.offset
        return rows.movedim(-1, axis).contiguous()


def procrustes(one: Tensor, other: Tensor) -> Map:
    """The map that takes rows (..., C) nearest to others (..., C), pair by pair.

    Schoenemann 1966, "A generalized solution of the orthogonal Procrustes problem".
    """
    one, other = one.flatten(0, -2), other.flatten(0, -2)
    means = one.mean(0), other.mean(0)
    matrix = _nearest_orthogonal((one - means[0]).T @ (other - means[1]))
    return Map(matrix, means[1] - means[0] @ matrix)


@torch.no_grad()
def map_without_pairs(
    turned: Tensor, known: Tensor, image_size: tuple[int, int], *, generator: torch.Generator
) -> Map | None:
    """The map that makes features, all turned by one orthogonal matrix, what features of other images are.

    Iterated closest points (Besl & McKay 1992, "A method for registration of 3-D shapes") over patches of 3x3 places,
    which one matrix turns together: each is matched with the known patch that it is most like, then Procrustes, and
    again. It needs a start that gets much right: principal axes (Liu, Giannella & Kargupta 2006, "An attacker's view of
    distance preserving maps for privacy preserving data mining"), whose signs the means at each place and the skewness
    tell, then some at random. The first is taken from which images that no map was fitted to come to lie where known
    ones do.

    Args:
        turned: (N, ...) features of some images.
        known: (M, ...) features of other images, which are not turned.
        image_size: (H, W) of the images.
        generator: draws patches, and starts.

    Returns:
        None where features lie on no grid or are too few, where nothing is to be turned back, where the spectrum says
        that no orthogonal matrix did this, or where none is found.
    """
    grid, known_grid = (features_on_grid(features.float(), image_size) for features in (turned, known))
    if turned.shape[1:] != known.shape[1:] or grid is None or known_grid is None or min(len(grid), len(known)) < FEWEST:
        return None
    mean, known_mean = grid.mean((0, 2, 3), keepdim=True), known_grid.mean((0, 2, 3), keepdim=True)
    grid, known_grid = grid - mean, known_grid - known_mean
    reference, others = known_grid.split(-(-len(known_grid) // 2))
    usual = _apart(others, reference, generator)

    def astray(features: Tensor) -> bool:
        return _apart(features, reference, generator) > ALIKE * usual

    if not astray(grid + mean - known_mean) or not _same_spectrum(grid, known_grid):
        return None
    judges, fitted = grid[: len(grid) // 4], grid[len(grid) // 4 :]
    for start in _starts(fitted, known_grid, generator):
        matrix = _refined(start, fitted, known_grid, generator)
        if not astray(_times(judges, matrix)):
            matrix = _refined(matrix, grid, known_grid, generator)
            return Map(matrix, known_mean.flatten() - mean.flatten() @ matrix)
    return None


def _refined(matrix: Tensor, grid: Tensor, known: Tensor, generator: torch.Generator) -> Tensor:
    """The matrix (C,C) after rounds of matching patches of (N,C,h,w) with those of (M,C,h,w)."""
    for _ in range(ROUNDS):
        sample, reference = _patches(grid, PATCHES, generator), _patches(known, KNOWN_PATCHES, generator)
        apart = torch.cdist((sample @ matrix).flatten(1), reference.flatten(1))
        matched = reference[apart.argmin(1)]
        before, matrix = matrix, _nearest_orthogonal(sample.flatten(0, 1).T @ matched.flatten(0, 1))
        if float((matrix - before).square().sum(0).mean()) < SETTLED:
            break
    return matrix


def _patches(grid: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """(N,C,h,w) -> (P,9,C): places drawn at random, each with the eight around it, zero beyond the border."""
    height, width = grid.shape[2:]
    places = torch.randperm(len(grid) * height * width, generator=generator, device=generator.device)[:most]
    image, place = places.to(grid.device) // (height * width), places.to(grid.device) % (height * width)
    around = torch.arange(9, device=grid.device)
    down, right = (place // width)[:, None] + around // 3 - 1, (place % width)[:, None] + around % 3 - 1
    inside = (down >= 0) & (down < height) & (right >= 0) & (right < width)
    rows = grid.permute(0, 2, 3, 1)[image[:, None], down.clamp(0, height - 1), right.clamp(0, width - 1)]
    return rows * inside[..., None]


def _apart(grid: Tensor, reference: Tensor, generator: torch.Generator) -> float:
    """Mean distance of places of (N,C,h,w) from the nearest of others (M,C,h,w)."""
    middle, others = _patches(grid, PATCHES, generator)[:, 4], _patches(reference, KNOWN_PATCHES, generator)[:, 4]
    return float(torch.cdist(middle, others).amin(1).mean())


def _starts(grid: Tensor, known: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Matrices (C,C) that may be near the one that turns centred features (N,C,h,w) into known ones."""
    (axes, means, skewness), (known_axes, known_means, known_skewness) = _along_axes(grid), _along_axes(known)
    alike = [(means * known_means).sum(0), skewness * known_skewness]
    alike = [scores / scores.abs().mean().clamp_min(1e-12) for scores in alike]
    signs = [torch.where(scores < 0, -1.0, 1.0).double() for scores in (alike[0] + alike[1], *alike)]
    drawn = torch.randn(RANDOM_STARTS, *axes.shape, generator=generator, device=generator.device)
    by_axes = [axes @ torch.diag(one) @ known_axes.T for one in signs]
    return [matrix.to(grid) for matrix in (*by_axes, *torch.linalg.qr(drawn.cpu().double()).Q)]


def _along_axes(grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Principal axes (C,C) of centred features (N,C,h,w); means at each place (h*w, C) and skewness (C,) along them."""
    rows = _rows(grid)
    axes = torch.linalg.eigh(rows.T @ rows / len(rows)).eigenvectors
    means = functional.normalize(_rows(grid.mean(0, keepdim=True)) @ axes, dim=0)
    along = rows @ axes
    return axes, means, (along**3).mean(0) / (along**2).mean(0).clamp_min(1e-24) ** 1.5


def _same_spectrum(one: Tensor, other: Tensor) -> bool:
    values = [torch.linalg.eigvalsh(rows.T @ rows / len(rows)) for rows in (_rows(one), _rows(other))]
    return float((values[0] - values[1]).abs().sum() / values[1].sum()) <= SAME_SPECTRUM


def _rows(grid: Tensor) -> Tensor:
    """(N,C,h,w) -> (N*h*w, C), on the CPU in float64: the same on every device."""
    return grid.permute(0, 2, 3, 1).flatten(0, 2).cpu().double()


def _times(grid: Tensor, matrix: Tensor) -> Tensor:
    return (grid.permute(0, 2, 3, 1) @ matrix).permute(0, 3, 1, 2)


def _nearest_orthogonal(matrix: Tensor) -> Tensor:
    """On the CPU in float64: the same on every device."""
    u, _, v = torch.linalg.svd(matrix.cpu().double())
    orthogonal: Tensor = (u @ v).to(matrix)
    return orthogonal
