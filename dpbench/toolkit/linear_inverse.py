"""Images from released features by one linear map from all values to all pixels: no order of the values hinders it.

Convolutions read a part of an image near where its features lie. A client that sends its values in a secret but fixed
order takes that from them, and nothing from a dense map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpbench.machine.devices import exact
from dpbench.service.release import RELEASE_BATCH
from dpbench.toolkit.inverse_network import features_on_grid
from dpbench.toolkit.standardising import Standardising, centre_and_unit, squashed

MOST_VALUES = 16384
"""Values of a release that are read; of larger ones as many, evenly spread."""

MOST_IMAGES = 2048
"""Auxiliary images that the linear map is fitted and judged on: its cost grows with their cube."""

SIDE = 32
"""Pixels a side of the images that it gives at most: what refines them makes them larger."""

RIDGES = (0.03, 0.2, 1.0, 5.0)
"""Shares of the mean eigenvalue, of which the one counts that serves best on images that were left out."""

MOST_COLUMNS = 16384
"""Values of an image that a reading error looks at; more of them say the same again."""

READING_SIDE = 16
"""Pixels a side of the small images that are read to tell how much features show."""

READING_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Shares of the mean eigenvalue, of which the best counts."""


class LinearInverse(nn.Module):
    """Ridge regression (Hoerl & Kennard 1970) from releases, every value standardised, to small images.

    Args:
        feature_shape: released features without the batch axis.
        image_shape: (3, H, W) of the images to reconstruct.

    Attributes:
        small_shape: (3, h, w) of what it gives, at most `SIDE` a side.
    """

    matrix: Tensor
    offset: Tensor

    def __init__(self, feature_shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.small_shape = (image_shape[0], min(SIDE, image_shape[1]), min(SIDE, image_shape[2]))
        self.step = -(-math.prod(feature_shape) // MOST_VALUES)
        values = -(-math.prod(feature_shape) // self.step)
        self.standardising = Standardising((values,), 1)
        self.register_buffer("matrix", torch.zeros(values, math.prod(self.small_shape)))
        self.register_buffer("offset", torch.zeros(math.prod(self.small_shape)))

    @torch.no_grad()
    def fit(
        self,
        query: Callable[[Tensor], Tensor],
        known: Iterable[Tensor],
        left_out: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor],
        to_beat: Tensor | float = math.inf,
    ) -> Tensor:
        """Fit to releases of images.

        Args:
            query: images (N,3,H,W) -> releases (N, ...).
            known: images, (N,3,H,W) in [0,1] at a time.
            left_out: others, (M,3,H,W), by which the strength of the regularisation is chosen.
            loss: small images (M,3,h,w) and true ones (M,3,H,W) -> ().
            to_beat: with a loss that is not below it, the map stays that to the mean image.

        Returns:
            The loss on the images that were left out, (); infinite where the releases are all the same.
        """
        parts = [(self._values(query(images)), self._small(images)) for images in known]
        rows, pixels = (torch.cat(columns) for columns in zip(*parts, strict=True))
        others = torch.cat([self._values(query(images)) for images in left_out.split(RELEASE_BATCH)])
        self.standardising.fit(rows)
        # of one size, whatever its own was: a client chooses the scale of each value
        self.standardising.size.copy_(self.standardising.size > 0)
        rows, others = self.standardising(rows), self.standardising(others)
        mean, self.offset = rows.mean(0), pixels.mean(0)
        rows, others, pixels = rows - mean, others - mean, pixels - self.offset
        gram, across = rows @ rows.T, others @ rows.T
        size = gram.diagonal().mean()
        lowest, best = torch.full((), torch.inf, device=rows.device), None
        for ridge in RIDGES if size > 0 else ():
            regular = gram.clone()
            regular.diagonal().add_(ridge * size)
            factor, failed = torch.linalg.cholesky_ex(regular)
            if failed:
                continue
            predicted = torch.cholesky_solve(across.T, factor).T @ pixels + self.offset
            error = loss(predicted.view(-1, *self.small_shape), left_out)
            if error < lowest:
                lowest, best = error, factor
        if best is not None and lowest < to_beat:
            self.matrix = rows.T @ torch.cholesky_solve(pixels, best)
            self.offset = self.offset - mean @ self.matrix
        return lowest

    @torch.no_grad()
    def forward(self, released: Tensor) -> Tensor:
        """Releases (N, ...) -> small images (N,3,h,w) in float32, about [0,1] but not clamped."""
        with torch.autocast(released.device.type, enabled=False):
            pixels: Tensor = self.standardising(self._values(released)) @ self.matrix + self.offset
        return pixels.view(-1, *self.small_shape)

    def _small(self, images: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(images, self.small_shape[1:]).flatten(1)

    def _values(self, released: Tensor) -> Tensor:
        return released.flatten(1)[:, :: self.step].contiguous()


class ReadingErrors:
    """How well small images (N,3,16,16) or so are read from features, linearly, on images that were left out.

    Args:
        images: (N,3,H,W).
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images
        small = functional.adaptive_avg_pool2d(images, READING_SIDE).flatten(1)
        self.small = exact(small - small.mean(0))
        self.known: dict[tuple[object, ...], float] = {}
        self.at_once: set[tuple[object, ...]] = set()

    def error(self, features: list[Tensor], *, reach: int = 0) -> float:
        """Share of the small images' variance that is not read: patch by patch where features lie on a grid.

        Args:
            features: any number of taps.
            reach: a patch is read from positions up to so far from its own.
        """
        about = (reach, *_fingerprints(features))  # many are copies of each other
        if about not in self.known:
            standard = [_standard(tap) for tap in features]
            by_patches = [self._by_patches(standard, nearby) for nearby in range(reach + 1)]
            self.known[about] = min((error for error in by_patches if error is not None), default=1.0)
            if by_patches[0] is None:
                self.known[about] = self._whole(standard)
                self.at_once.add(about)
        return self.known[about]

    def is_whole(self, features: list[Tensor]) -> bool:
        """Whether `error` read them at once: they lie on no grid, or the images are few for so many channels."""
        return (0, *_fingerprints(features)) in self.at_once

    def whole(self, features: list[Tensor]) -> float:
        """The error where features (N, ...) are read at once, whether they lie on a grid or not."""
        return self._whole([_standard(tap) for tap in features])

    def _whole(self, features: list[Tensor]) -> float:
        """Ridge regression in its dual form; each image is predicted from the others (Golub, Heath & Wahba 1979)."""
        rows = torch.cat([some_columns(tap.flatten(1)) for tap in features], 1)
        gram = exact(rows @ rows.T)
        values, vectors = torch.linalg.eigh(gram.cpu())
        values, truth = values.clamp_min(0), vectors.T @ self.small.cpu()
        if not values.mean() > 0:
            return 1.0
        errors = []
        for ridge in READING_RIDGES:
            kept = values / (values + ridge * values.mean())
            left = self.small.cpu() - vectors @ (kept[:, None] * truth)
            # 1/N: the mean is estimated too
            alone = left / (1 - 1 / len(rows) - vectors.square() @ kept)[:, None]
            errors.append(float(alone.square().sum() / self.small.square().sum().cpu()))
        return min(errors)

    def _by_patches(self, features: list[Tensor], reach: int) -> float | None:
        """One linear map from the channels around a position to the patch of the image there, as convolutions do.

        None where they lie on no grid, or the images are too few for so many channels.
        """
        maps = [features_on_grid(tap, (self.images.shape[2], self.images.shape[3])) for tap in features]
        grids = {grid.shape[2:] for grid in maps if grid is not None}
        if len(grids) != 1 or any(grid is None for grid in maps):
            return None
        grid = torch.cat([grid for grid in maps if grid is not None], 1)
        height, width = (min(READING_SIDE, side) for side in grid.shape[2:])
        grid = functional.adaptive_avg_pool2d(grid, (height, width))
        factors = max(1, READING_SIDE // height), max(1, READING_SIDE // width)
        small = functional.adaptive_avg_pool2d(self.images, (height * factors[0], width * factors[1]))
        patches = small.unflatten(3, (width, factors[1])).unflatten(2, (height, factors[0]))
        truth = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (N, positions, values)
        given = functional.unfold(grid, 2 * reach + 1, padding=reach).transpose(1, 2)
        half = len(truth) // 2
        if half * height * width < 2 * given.shape[2]:
            return None
        wrong, spread = 0.0, 0.0
        for known, other in ((slice(half), slice(half, None)), (slice(half, None), slice(half))):
            x, y = (exact(values[known].flatten(0, 1)) for values in (given, truth))
            x_mean, y_mean = x.mean(0), y.mean(0)
            square = (x - x_mean).T @ (x - x_mean)
            square.diagonal().add_(READING_RIDGES[0] * square.diagonal().mean() + torch.finfo(square.dtype).tiny ** 0.5)
            matrix = torch.linalg.solve(square, (x - x_mean).T @ (y - y_mean))
            x, y = (exact(values[other].flatten(0, 1)) for values in (given, truth))
            wrong += float(((x - x_mean) @ matrix + y_mean - y).square().sum())
            spread += float((y - y_mean).square().sum())
        return wrong / spread if spread > 0 else 1.0


def _standard(features: Tensor) -> Tensor:
    """Features (N, ...) in float32, every value about 0 and of unit variance over the images, without outliers."""
    rows = features.flatten(1)
    centre, unit = centre_and_unit(rows)
    units = squashed((exact(rows) - centre) / unit)
    units = units - units.mean(0)
    size = units.std(0, correction=0)
    return torch.where(size > 0, units / torch.where(size > 0, size, 1), 0).float().view(features.shape)


def _fingerprints(features: list[Tensor]) -> tuple[object, ...]:
    return tuple(_fingerprint(tap) for tap in features)


def _fingerprint(features: Tensor) -> tuple[object, ...]:
    """A few numbers that are equal for copies of the same features, and others where the order differs."""
    ends = exact(torch.stack([features[0], features[-1]]).flatten(1))
    weights = torch.arange(1, ends.shape[1] + 1, device=ends.device).to(ends).sqrt()
    return tuple(features.shape), *(ends @ weights).tolist()


def some_columns(rows: Tensor) -> Tensor:
    """At most `MOST_COLUMNS` columns, spread over all."""
    step = -(-rows.shape[1] // MOST_COLUMNS)
    return rows[:, ::step]
