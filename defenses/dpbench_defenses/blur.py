"""Fine detail stays with the client: a low-pass over positions."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from dpbench.contract.feature_transform import FeatureTransform
from dpbench.plugins.registry import register
from dpbench_defenses._positions import grid_of, laid_as, rows_of

REACH = 3
"""The kernel ends so many sigma from its centre."""


@register
class Blur(FeatureTransform):
    """Every channel is convolved with a Gaussian over the positions of its map.

    What Vasiljevic et al. 2016, "Examining the impact of blur on recognition by convolutional networks", do to
    pixels, done to features; ours in this form. Maps in either layout and tokens on a square grid are blurred over
    both axes, at the border as if the outermost values went on; class and register tokens stay as they are. Tokens
    without a grid, and flat features, are blurred along their one line. The network is not re-trained.

    A convolution has an inverse: what the low-pass leaves at full precision a linear map brings back, as far as
    rounding allows. It hides from whoever does not deconvolve.
    """

    name: ClassVar[str] = "blur"
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "Vasiljevic et al., Examining the impact of blur on recognition, arXiv 1611.05760"

    sigma: float = Field(1.0, gt=0, le=100, description="standard deviation of the kernel, in positions")

    def transform(self, features: Tensor, state: dict[str, Tensor], *, generator: torch.Generator | None) -> Tensor:
        """Blurs each map of each image."""
        prefix, height, width = grid_of(features)
        rows = rows_of(features).float()
        maps = rows[:, prefix:].transpose(1, 2).unflatten(2, (height, width))
        blurred = self._along_width(self._along_width(maps).transpose(2, 3)).transpose(2, 3)
        return laid_as(torch.cat([rows[:, :prefix], blurred.flatten(2).transpose(1, 2)], 1), features)

    def _along_width(self, maps: Tensor) -> Tensor:
        """Blurs (N,C,h,w) along w, which has its border values beyond it."""
        width = maps.shape[3]
        if width == 1:
            return maps
        radius = max(1, math.ceil(REACH * self.sigma))
        offsets = torch.arange(-radius, radius + 1, device=maps.device, dtype=torch.float32)
        kernel = torch.exp(-0.5 * (offsets / self.sigma).square())
        lines = F.pad(maps.reshape(1, -1, width), (radius, radius), mode="replicate").transpose(0, 1)
        return F.conv1d(lines, (kernel / kernel.sum())[None, None]).view_as(maps)
