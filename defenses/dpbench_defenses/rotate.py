"""A secret rotation of the features."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from dpbench.contract.defense import Defense, ProtectedModel, SplitModel
from dpbench.contract.images import LabelledImages
from dpbench.errors import DpbenchError
from dpbench.plugins.registry import register
from dpbench_defenses._halves import feature_shape
from dpbench_defenses._positions import laid_as, rows_of
from dpbench_defenses._undone import UndoneModel

MOST = 1 << 25
"""Numbers in the matrices of a rotation: with more, positions are not mixed, only channels."""


@register
class Rotation(Defense):
    """A secret order of all values, then a secret orthogonal matrix over each `block` of them; the server has the key.

    Chen & Liu 2005, "Privacy preserving data classification with rotation perturbation". Differs: the rotation is drawn
    once, at fit (Haar-distributed: the QR of normal matrices with the signs of R taken out, Mezzadri 2007), not for
    each image; the server undoes it and the network goes on as trained, where theirs learns on rotated data. A whole
    rotation of n values would be n^2 numbers, so it is made of blocks: `block` = 1 is an order and signs, more mixes
    more. Where even blocks of all values exceed 2^25 numbers, the same rotation of the channels is applied at every
    position, and positions are not mixed.

    The accuracy does not change, and nothing is hidden from the server, which holds the key. Where the server is
    trusted, the key is what an attacker who can ask the client learns from pairs, by one linear map; where positions
    are not mixed, also one who only knows undefended features, from some 32 releases (the attack `mixture`).
    """

    name: ClassVar[str] = "rotate"
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "Chen & Liu, Privacy preserving data classification with rotation perturbation, ICDM 2005"

    block: int = Field(64, ge=1, le=4096, description="values that one orthogonal matrix mixes")

    def build(self, split: SplitModel) -> ProtectedModel:
        """The model before its rotation is drawn: the identity.

        Raises:
            DpbenchError: the channels alone are too many for blocks of this size.
        """
        return RotatedModel(split, self.block)

    def fit(
        self,
        model: ProtectedModel,
        private: LabelledImages,
        *,
        generator: torch.Generator,
        progress: Callable[[str], None],
    ) -> None:
        """Draw the key; the private images are not looked at."""
        assert isinstance(model, RotatedModel)
        progress("drawing the rotation")
        device = model.order.device
        model.order.copy_(torch.randperm(len(model.order), generator=generator, device=device))
        for number, (matrix, size) in enumerate(zip(model.matrices, model.sizes, strict=True)):
            drawn = torch.randn(size, size, generator=generator, device=device)
            model.matrices[number] = torch.eye(len(matrix), device=device)
            model.matrices[number, :size, :size] = _orthogonal(drawn)


class RotatedModel(UndoneModel):
    """Releases features in their own layout, every value a mixture of a block of them."""

    order: Tensor
    matrices: Tensor

    def __init__(self, split: SplitModel, block: int) -> None:
        super().__init__(split)
        probe = torch.empty(1, *feature_shape(split), device="meta")
        values, channels = probe.numel(), rows_of(probe).shape[2]
        block = min(block, values)
        self.mixes_positions = values * block <= MOST
        turned = values if self.mixes_positions else channels
        block = min(block, turned)
        if turned * block > MOST or (probe.ndim == 2 and not self.mixes_positions):
            raise DpbenchError(
                f"rotate: blocks of {block} over {max(turned, values)} values at {split.split_point!r} are more than "
                f"{MOST} numbers; lower block to {max(1, MOST // max(turned, values))}"
            )
        count = math.ceil(turned / block)
        self.sizes = [block] * (count - 1) + [turned - block * (count - 1)]
        self.register_buffer("order", torch.arange(turned))
        self.register_buffer("matrices", torch.eye(block).repeat(count, 1, 1))

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Puts the values in the secret order and rotates each block."""
        rows = self._rows(features)[..., self.order]
        return self._laid(self._turned(rows, self.matrices), features)

    def undo(self, released: Tensor) -> Tensor:
        """Rotates each block back and the values to their places."""
        rows = self._turned(self._rows(released), self.matrices.transpose(1, 2))
        return self._laid(rows[..., self.order.argsort()], released)

    def _rows(self, features: Tensor) -> Tensor:
        """(N, ...) -> (N,P,C), or (N,1,D) where all values are mixed; float32."""
        return (features.flatten(1)[:, None] if self.mixes_positions else rows_of(features)).float()

    def _laid(self, rows: Tensor, features: Tensor) -> Tensor:
        return rows.to(features.dtype).view(features.shape) if self.mixes_positions else laid_as(rows, features)

    def _turned(self, rows: Tensor, matrices: Tensor) -> Tensor:
        count, block = matrices.shape[:2]
        width = rows.shape[2]
        blocks = F.pad(rows, (0, count * block - width)).unflatten(2, (count, block))
        turned: Tensor = torch.einsum("npkb,kbc->npkc", blocks, matrices)
        return turned.flatten(2)[..., :width]


def _orthogonal(drawn: Tensor) -> Tensor:
    """Normal (n,n) -> orthogonal (n,n), uniform over all; on the CPU in float64, the same on every device."""
    q, r = torch.linalg.qr(drawn.cpu().double())
    orthogonal: Tensor = q * r.diagonal().sign()
    return orthogonal.to(drawn)
