"""Additive Gaussian noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from dpbench.contract.defense import AdditiveNoise
from dpbench.contract.feature_transform import FeatureTransform
from dpbench.plugins.registry import register
from dpbench.toolkit.calibration import mean_and_std


@register
class Gaussian(FeatureTransform):
    """Additive Gaussian noise, the common baseline of a noisy release.

    Our choices: the noise is measured in units of the features' own standard deviation (one scalar over all
    values of the private images), so that one `std` means the same at every split point; the network is not
    re-trained under the noise; nothing is clipped, so no differential privacy follows
    (`clipped-gaussian` is the one that does).
    """

    name: ClassVar[str] = "gaussian"
    version: ClassVar[int] = 1

    std: float = Field(
        1.0, ge=0, le=1000, description="noise std, relative to the std of the features of the private images"
    )

    def calibrate(self, batches: Iterator[Tensor], *, generator: torch.Generator) -> dict[str, Tensor]:
        """The feature std."""
        return {"feature_std": mean_and_std(batches)[1]}

    def transform(self, features: Tensor, state: dict[str, Tensor], *, generator: torch.Generator | None) -> Tensor:
        """Adds N(0, (std * feature_std)^2) to every value, drawn anew at every release."""
        noise = torch.randn(features.shape, generator=generator, dtype=torch.float32, device=features.device)
        return features + (noise * (self.std * state["feature_std"])).to(features.dtype)

    def stated_noise(self, state: dict[str, Tensor]) -> AdditiveNoise:
        """Gaussian, of std * feature_std."""
        return AdditiveNoise("gaussian", self.std * float(state["feature_std"]))
