"""A Bernoulli mask at inference."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from dpbench.contract.defense import Defense, ProtectedModel, SplitModel
from dpbench.plugins.registry import register


class DropoutModel(ProtectedModel):
    """Drops each value with probability p, anew at every release."""

    def __init__(self, split: SplitModel, p: float) -> None:
        super().__init__(split)
        self.p = p

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Features (N, ...) -> masked features, same shape, dtype and device; `generator` on that device."""
        draw = torch.rand(features.shape, generator=generator, dtype=torch.float32, device=features.device)
        return features * (draw >= self.p).to(features.dtype) / (1 - self.p)


@register
class Dropout(Defense):
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

    def build(self, split: SplitModel) -> DropoutModel:
        """Features of any shape (N, ...)."""
        return DropoutModel(split, self.p)
