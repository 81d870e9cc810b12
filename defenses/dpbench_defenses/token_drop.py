"""Only some of the tokens leave the client."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from dpbench.contract.feature_transform import FeatureTransform
from dpbench.plugins.registry import register
from dpbench_defenses._positions import drawn_places, grid_of, laid_as, rows_of


@register
class TokenDrop(FeatureTransform):
    """A share of the positions of an image, drawn anew for every release, is zero; class and register tokens stay.

    Liu et al. 2023, "PatchDropout: economizing vision transformers using patch dropout", who drop patches while
    training. Differs: at the release, with a network that is not re-trained; what is dropped is zero at its place and
    not absent, so that convolutional tails, and those that were traced for a number of tokens, go on. Positions
    of feature maps count as tokens, in either layout; so does every value of flat features. `release_bits` counts
    what is not zero, and the bits that name it value by value: a few per cent more than naming whole tokens takes.

    What is left is exact, and neighbours tell much of what is missing; several releases fill the gaps.
    """

    name: ClassVar[str] = "token-drop"
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "Liu et al., PatchDropout: Economizing vision transformers using patch dropout, WACV 2023"

    share: float = Field(0.5, ge=0, lt=1, description="share of the tokens that are dropped; one at least is kept")

    def transform(self, features: Tensor, state: dict[str, Tensor], *, generator: torch.Generator | None) -> Tensor:
        """Sets the chosen positions of each image to zero."""
        prefix, rows = grid_of(features)[0], rows_of(features)
        count = rows.shape[1] - prefix
        dropped = drawn_places(rows, count, generator)[:, : min(count - 1, round(self.share * count))] + prefix
        kept = torch.ones(rows.shape[:2], dtype=rows.dtype, device=rows.device).scatter(1, dropped, 0)
        return laid_as(rows * kept[:, :, None], features)

    def is_sparse(self) -> bool:
        """True: only values that are not zero are sent."""
        return True
