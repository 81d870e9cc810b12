"""Few bits per value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from dpbench.contract.feature_transform import FeatureTransform
from dpbench.plugins.registry import register
from dpbench.toolkit.calibration import quantiles

SHARES = (0.001, 0.999)
"""The range: extremes would spend the few levels on rare outliers."""


@register
class Quantise(FeatureTransform):
    """Uniform quantisation, the common baseline of a compressed release.

    The two outermost levels are the 0.1% and 99.9% quantiles of all feature values over the private images
    (one range for all channels); what lies beyond is clipped. Within the range no value moves by more than
    (high - low) / (2**bits - 1) / 2.
    """

    name: ClassVar[str] = "quantise"
    version: ClassVar[int] = 1

    bits: int = Field(2, ge=1, le=8, description="bits per released value")

    def calibrate(self, batches: Iterator[Tensor], *, generator: torch.Generator) -> dict[str, Tensor]:
        """The two outermost levels."""
        low, high = quantiles(batches, SHARES, generator=generator)
        # constant features have an empty range: any width keeps the division finite
        return {"low": low, "high": torch.where(high > low, high, low + 1)}

    def transform(self, features: Tensor, state: dict[str, Tensor], *, generator: torch.Generator | None) -> Tensor:
        """Clips every value to [low, high] and rounds it to the nearest of 2**bits equally spaced levels.

        The rounding is the true one: its gradient is zero. A white-box attacker brings its own surrogate.
        """
        low, steps = state["low"], 2**self.bits - 1
        width = state["high"] - low
        share = ((features.float() - low) / width).clamp(0, 1)
        rounded: Tensor = low + torch.round(share * steps) / steps * width
        return rounded.to(features.dtype)
