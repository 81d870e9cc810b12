"""A Bernoulli mask at inference."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from dpbench.contract.feature_transform import FeatureTransform
from dpbench.plugins.registry import register


@register
class Dropout(FeatureTransform):
    """He, Zhang & Lee 2020 (IEEE IoT Journal), "Attacking and protecting data privacy in edge-cloud systems".

    Differs: the mask is drawn for every value of the released features, not for whole channels; survivors are
    scaled by 1 / (1 - p), so that the expectation is kept; the network is not re-trained under the mask.
    """

    name: ClassVar[str] = "dropout"
    version: ClassVar[int] = 1
    paper: ClassVar[str] = (
        "He et al., Attacking and protecting data privacy in edge-cloud collaborative inference systems, 2020"
    )

    p: float = Field(0.5, ge=0, lt=1, description="probability that a value is dropped")

    def transform(self, features: Tensor, state: dict[str, Tensor], *, generator: torch.Generator | None) -> Tensor:
        """Drops each value with probability p, anew at every release."""
        draw = torch.rand(features.shape, generator=generator, dtype=torch.float32, device=features.device)
        return features * (draw >= self.p).to(features.dtype) / (1 - self.p)
