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

from dpbench.service.release import RELEASE_BATCH
from dpbench.toolkit.standardising import Standardising

MOST_VALUES = 16384
"""Values of a release that are read; of larger ones as many, evenly spread."""

SIDE = 32
"""Pixels a side of the images that it gives at most: what refines them makes them larger."""

RIDGES = (0.03, 0.2, 1.0, 5.0)
"""Shares of the mean eigenvalue, of which the one counts that serves best on images that were left out."""


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
