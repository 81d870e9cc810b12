"""Few bits per value."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from dpbench.contract.defense import Defense, ProtectedModel, SplitModel
from dpbench.contract.images import LabelledImages
from dpbench.plugins.registry import register
from dpbench.toolkit.calibration import feature_batches, quantiles

SHARES = (0.001, 0.999)
"""The range: extremes would spend the few levels on rare outliers."""


class QuantiseModel(ProtectedModel):
    """Clips every value to [low, high] and rounds it to the nearest of 2**bits equally spaced levels."""

    low: Tensor
    high: Tensor

    def __init__(self, split: SplitModel, bits: int) -> None:
        super().__init__(split)
        self.steps = 2**bits - 1
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.ones(()))

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Features (N, ...) -> quantised features, same shape, dtype and device.

        The rounding is the true one: its gradient is zero. A white-box attacker brings its own surrogate.
        """
        width = self.high - self.low
        share = ((features.float() - self.low) / width).clamp(0, 1)
        rounded: Tensor = self.low + torch.round(share * self.steps) / self.steps * width
        return rounded.to(features.dtype)


@register
class Quantise(Defense):
    """Uniform quantisation, the common baseline of a compressed release.

    The two outermost levels are the 0.1% and 99.9% quantiles of all feature values over the private images
    (one range for all channels); what lies beyond is clipped. Within the range no value moves by more than
    (high - low) / (2**bits - 1) / 2.
    """

    name: ClassVar[str] = "quantise"
    version: ClassVar[int] = 1

    bits: int = Field(2, ge=1, le=8, description="bits per released value")

    def build(self, split: SplitModel) -> QuantiseModel:
        """Features of any shape (N, ...)."""
        return QuantiseModel(split, self.bits)

    def fit(
        self,
        model: ProtectedModel,
        private: LabelledImages,
        *,
        generator: torch.Generator,
        progress: Callable[[str], None],
    ) -> None:
        """Find the range over (at most 2,048 of) the private images."""
        assert isinstance(model, QuantiseModel)
        progress("measuring the features")
        low, high = quantiles(feature_batches(model, private, generator=generator), SHARES, generator=generator)
        model.low.copy_(low)
        # constant features have an empty range: any width keeps the division finite
        model.high.copy_(torch.where(high > low, high, low + 1))
