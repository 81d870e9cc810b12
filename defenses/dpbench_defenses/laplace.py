"""Additive Laplace noise."""

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


def laplace_noise(shape: torch.Size, *, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Laplace noise of mean 0 and scale b = 1 (variance 2), float32, always finite.

    The difference of two unit exponentials, each -log(1 - u) with u in [0, 1): unlike the inverse of the
    distribution function at a single draw, no u gives log(0).
    """
    u = torch.rand((2, *shape), generator=generator, dtype=torch.float32, device=device)
    exponential = -torch.log1p(-u)
    return exponential[0] - exponential[1]


@register
class Laplace(FeatureTransform):
    """Titcombe et al. 2021, "Practical defences against model inversion attacks for split neural networks".

    Differs: b is measured in units of the features' own standard deviation (one scalar over all values of the
    private images), so that one `scale` means the same at every split point. The noise std is sqrt(2) b.
    """

    name: ClassVar[str] = "laplace"
    version: ClassVar[int] = 1
    paper: ClassVar[str] = (
        "Titcombe et al., Practical defences against model inversion attacks for split neural networks, 2021"
    )

    scale: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="b of the noise, relative to the std of the features of the private images",
    )

    def calibrate(self, batches: Iterator[Tensor], *, generator: torch.Generator) -> dict[str, Tensor]:
        """The feature std."""
        return {"feature_std": mean_and_std(batches)[1]}

    def transform(self, features: Tensor, state: dict[str, Tensor], *, generator: torch.Generator | None) -> Tensor:
        """Adds Laplace(0, b = scale * feature_std) to every value, drawn anew at every release."""
        noise = laplace_noise(features.shape, generator=generator, device=features.device)
        return features + (noise * (self.scale * state["feature_std"])).to(features.dtype)

    def stated_noise(self, state: dict[str, Tensor]) -> AdditiveNoise:
        """Laplace, of b = scale * feature_std."""
        return AdditiveNoise("laplace", self.scale * float(state["feature_std"]))
