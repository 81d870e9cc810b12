"""Additive Gaussian noise."""

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


class GaussianModel(ProtectedModel):
    """Adds N(0, (std * feature_std)^2) to every value, drawn anew at every release."""

    feature_std: Tensor

    def __init__(self, split: SplitModel, std: float) -> None:
        super().__init__(split)
        self.std = std
        self.register_buffer("feature_std", torch.ones(()))

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Features (N, ...) -> noisy features, same shape, dtype and device; `generator` on that device."""
        noise = torch.randn(features.shape, generator=generator, dtype=torch.float32, device=features.device)
        return features + (noise * (self.std * self.feature_std)).to(features.dtype)

    def noise(self) -> AdditiveNoise:
        """Gaussian, of std * feature_std."""
        return AdditiveNoise("gaussian", self.std * float(self.feature_std))


@register
class Gaussian(Defense):
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

    def build(self, split: SplitModel) -> GaussianModel:
        """Features of any shape (N, ...)."""
        return GaussianModel(split, self.std)

    def fit(
        self,
        model: ProtectedModel,
        private: LabelledImages,
        *,
        generator: torch.Generator,
        progress: Callable[[str], None],
    ) -> None:
        """Measure the feature std over (at most 2,048 of) the private images."""
        assert isinstance(model, GaussianModel)
        progress("measuring the features")
        _, std = mean_and_std(feature_batches(model, private, generator=generator))
        model.feature_std.copy_(std)
