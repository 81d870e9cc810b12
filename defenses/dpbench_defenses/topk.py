"""Only the largest values leave the client."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from dpbench.contract.feature_transform import FeatureTransform
from dpbench.plugins.registry import register


@register
class TopK(FeatureTransform):
    """The k values of largest magnitude of each image, the others zero: sparsification as a release.

    Aji & Heafield 2017, "Sparse communication for distributed gradient descent", who send gradients so.
    Differs: features, not gradients; nothing is accumulated; k is counted for each image alone, never over a batch,
    where what is released of one image would depend on its neighbours; the network is not re-trained. Which values
    are sent is sent too: `release_bits` counts k values and the log2 C(n, k) bits that name them.

    The pattern of survivors is information in itself: a decoder that trains on such releases reads it.
    """

    name: ClassVar[str] = "topk"
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "Aji & Heafield, Sparse communication for distributed gradient descent, arXiv 1704.05021"

    keep: float = Field(0.1, gt=0, le=1, description="share of an image's values that are kept, at least one of them")

    def transform(self, features: Tensor, state: dict[str, Tensor], *, generator: torch.Generator | None) -> Tensor:
        """Keeps the largest magnitudes of each image."""
        flat = features.flatten(1)
        kept = flat.abs().topk(max(1, round(self.keep * flat.shape[1])), dim=1).indices
        return torch.zeros_like(flat).scatter(1, kept, flat.gather(1, kept)).view_as(features)

    def is_sparse(self) -> bool:
        """True: only values that are not zero are sent."""
        return True
