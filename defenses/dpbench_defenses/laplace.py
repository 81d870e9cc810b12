"""Additive Laplace noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from dpbench.contract.defense import AdditiveNoise, Defense, ProtectedModel, SplitModel
from dpbench.contract.images import LabelledImages
from dpbench.plugins.registry import register
from dpbench.toolkit.calibration import feature_batches, mean_and_std


def laplace_noise(shape: torch.Size, *, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Laplace noise of mean 0 and scale b = 1 (variance 2), float32, always finite.

    The difference of two unit exponentials, each -log(1 - u) with u in [0, 1): unlike the inverse of the
    distribution function at a single draw, no u gives log(0).
    """
    u = torch.rand((2, *shape), generator=generator, dtype=torch.float32, device=device)
    exponential = -torch.log1p(-u)
    return exponential[0] - exponential[1]


class LaplaceModel(ProtectedModel):
    """Adds Laplace(0, b = scale * feature_std) to every value, drawn anew at every release."""

    feature_std: Tensor

    def __init__(self, split: SplitModel, scale: float) -> None:
        super().__init__(split)
        self.scale = scale
        self.register_buffer("feature_std", torch.ones(()))

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Features (N, ...) -> noisy features, same shape, dtype and device; `generator` on that device."""
        noise = laplace_noise(features.shape, generator=generator, device=features.device)
        return features + (noise * (self.scale * self.feature_std)).to(features.dtype)

    def noise(self) -> AdditiveNoise:
        """Laplace, of b = scale * feature_std."""
        return AdditiveNoise("laplace", self.scale * float(self.feature_std))


@register
class Laplace(Defense):
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

    def build(self, split: SplitModel) -> LaplaceModel:
        """Features of any shape (N, ...)."""
        return LaplaceModel(split, self.scale)

    def fit(
        self,
        model: ProtectedModel,
        private: LabelledImages,
        *,
        generator: torch.Generator,
        progress: Callable[[str], None],
    ) -> None:
        """Measure the feature std over (at most 2,048 of) the private images."""
        assert isinstance(model, LaplaceModel)
        progress("measuring the features")
        _, std = mean_and_std(feature_batches(model, private, generator=generator))
        model.feature_std.copy_(std)
