"""Tokens in an order of their own for every release."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from dpbench.contract.feature_transform import FeatureTransform
from dpbench.plugins.registry import register
from dpbench_defenses._positions import drawn_places, grid_of, laid_as, rows_of


@register
class TokenShuffle(FeatureTransform):
    """The positions of an image are permuted anew for every release; class and register tokens stay first.

    Yao et al. 2022, "Privacy-preserving split learning via patch shuffling over transformers". Differs: nothing is
    re-trained under the permutation, and no two images are mixed. Transformer layers do not care for the order, so
    that the accuracy of a ViT stays what it is where positions were added before the split; convolutions do care.
    Positions of feature maps count as tokens, in either layout; so does every value of flat features, which leaves
    little of them.

    Each token still shows its patch: it goes back to where it was by what it looks like (the attack `reorder`).
    """

    name: ClassVar[str] = "token-shuffle"
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "Yao et al., Privacy-preserving split learning via patch shuffling over transformers, 2022"

    share: float = Field(1.0, gt=0, le=1, description="share of the tokens that change places among each other")

    def transform(self, features: Tensor, state: dict[str, Tensor], *, generator: torch.Generator | None) -> Tensor:
        """Permutes the chosen positions of each image."""
        prefix, rows = grid_of(features)[0], rows_of(features)
        count = rows.shape[1] - prefix
        moved = drawn_places(rows, count, generator)[:, : max(1, round(self.share * count))]  # in random order
        order = torch.arange(count, device=rows.device).repeat(len(rows), 1).scatter(1, moved.sort(1).values, moved)
        patches = rows[:, prefix:].gather(1, order[:, :, None].expand(-1, -1, rows.shape[2]))
        return laid_as(torch.cat([rows[:, :prefix], patches], 1), features)
