"""Features of a bounded norm under Gaussian noise: the release of which differential privacy can be said."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from dpbench.contract.defense import AdditiveNoise
from dpbench.contract.feature_transform import FeatureTransform
from dpbench.plugins.registry import register
from dpbench.toolkit.calibration import median_norm


@register
class ClippedGaussian(FeatureTransform):
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

    def calibrate(self, batches: Iterator[Tensor], *, generator: torch.Generator) -> dict[str, Tensor]:
        """The largest norm, and the std of the noise that goes with it."""
        norm, values = median_norm(batches)
        clip_norm = self.clip * norm
        return {"clip_norm": clip_norm, "noise_std": self.std * clip_norm / math.sqrt(values)}

    def location(self, features: Tensor, state: dict[str, Tensor]) -> Tensor:
        """Features (N, ...) -> float32 of the same shape, no image's L2 norm above `clip_norm`."""
        # fp32 whatever the network ran in: a norm that is rounded up would be more than was promised
        flat = features.float().flatten(1)
        norm: Tensor = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
        return (flat * (state["clip_norm"] / norm.clamp_min(1e-12)).clamp_max(1)).view(features.shape)

    def transform(self, features: Tensor, state: dict[str, Tensor], *, generator: torch.Generator | None) -> Tensor:
        """Scales each image's features down to `clip_norm` where theirs is larger, then adds N(0, noise_std^2)."""
        noise = torch.randn(features.shape, generator=generator, dtype=torch.float32, device=features.device)
        return (self.location(features, state) + noise * state["noise_std"]).to(features.dtype)

    def stated_noise(self, state: dict[str, Tensor]) -> AdditiveNoise:
        """Gaussian, over features of a bounded norm."""
        return AdditiveNoise("gaussian", float(state["noise_std"]), clip_norm=float(state["clip_norm"]))
