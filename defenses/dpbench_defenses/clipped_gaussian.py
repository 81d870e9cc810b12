"""Features of a bounded norm under Gaussian noise: the release of which differential privacy can be said."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from dpbench.contract.defense import AdditiveNoise, Defense, ProtectedModel, SplitModel
from dpbench.contract.images import LabelledImages
from dpbench.plugins.registry import register
from dpbench.toolkit.calibration import feature_batches, median_norm


class ClippedGaussianModel(ProtectedModel):
    """Scales each image's features down to norm `clip_norm` where theirs is larger, then adds N(0, noise_std^2)."""

    clip_norm: Tensor
    noise_std: Tensor

    def __init__(self, split: SplitModel) -> None:
        super().__init__(split)
        self.register_buffer("clip_norm", torch.ones(()))
        self.register_buffer("noise_std", torch.ones(()))

    def clipped(self, features: Tensor) -> Tensor:
        """Features (N, ...) -> float32 of the same shape, no image's L2 norm above `clip_norm`."""
        # fp32 whatever the network ran in: a norm that is rounded up would be more than was promised
        flat = features.float().flatten(1)
        norm: Tensor = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
        return (flat * (self.clip_norm / norm.clamp_min(1e-12)).clamp_max(1)).view(features.shape)

    def location(self, images: Tensor) -> Tensor:
        """The clipped features, float32."""
        return self.clipped(self.features(images))

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Features (N, ...) -> clipped and noisy, same shape, dtype and device; `generator` on that device."""
        noise = torch.randn(features.shape, generator=generator, dtype=torch.float32, device=features.device)
        return (self.clipped(features) + noise * self.noise_std).to(features.dtype)

    def noise(self) -> AdditiveNoise:
        """Gaussian, over features of a bounded norm."""
        return AdditiveNoise("gaussian", float(self.noise_std), clip_norm=float(self.clip_norm))


@register
class ClippedGaussian(Defense):
    """The Gaussian mechanism (Dwork & Roth 2014, appendix A) on each image's features: "dp-feature" in the literature.

    Each image's features are clipped to L2 norm C, then independent Gaussian noise is added. That is local
    differential privacy under replacement: any image may be exchanged for any other, sensitivity 2C. The epsilon is
    in `dpbench.metrics.guarantees`; at noise that leaves the task alone it is large, and says little.

    Our choices: C is `clip` times the median feature norm of the private images, so C itself is *not* covered by the
    epsilon unless it is fixed beforehand; the noise is measured in units of C / sqrt(D), the RMS of D feature values
    of norm C, so that one `std` means about the same as in `gaussian`; noise is fp32, so the attack of Mironov 2012 on
    its last bits is not covered; the network is not re-trained under clipping or noise.
    """

    name: ClassVar[str] = "clipped-gaussian"
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "Dwork & Roth, The algorithmic foundations of differential privacy, 2014"

    clip: float = Field(
        1.0, gt=0, le=1000, description="largest L2 norm, relative to the median of the features of the private images"
    )
    std: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="noise std, relative to the RMS of a feature value where the norm is the largest",
    )

    def build(self, split: SplitModel) -> ClippedGaussianModel:
        """Features of any shape (N, ...)."""
        return ClippedGaussianModel(split)

    def fit(
        self,
        model: ProtectedModel,
        private: LabelledImages,
        *,
        generator: torch.Generator,
        progress: Callable[[str], None],
    ) -> None:
        """Measure the median norm over (at most 2,048 of) the private images."""
        assert isinstance(model, ClippedGaussianModel)
        progress("measuring the features")
        norm, values = median_norm(feature_batches(model, private, generator=generator))
        model.clip_norm.copy_(self.clip * norm)
        model.noise_std.copy_(self.std * model.clip_norm / math.sqrt(values))
