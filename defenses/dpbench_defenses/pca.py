"""Few directions of the features leave the client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from dpbench.contract.defense import Defense, ProtectedModel, SplitModel
from dpbench.contract.feature_transform import feature_batches
from dpbench.contract.images import LabelledImages
from dpbench.errors import DpbenchError
from dpbench.machine.devices import exact
from dpbench.plugins.registry import register
from dpbench.toolkit.inversion import channel_axis
from dpbench_defenses._halves import feature_shape
from dpbench_defenses._undone import UndoneModel

MOST = 8192
"""Channels whose covariance is taken: of more it would fill the memory."""


@register
class PrincipalComponents(Defense):
    """Coefficients of the principal components of the channels, fitted on the private images.

    Pearson 1901, "On lines and planes of closest fit to systems of points in space". Our choices: the components
    are those of the channels, the same at every position (of flat features, of all values), so that the client does
    one 1x1 convolution; what is sent are the coefficients, k channels instead of C, which `release_bits` counts; the
    server makes features of them by the transposed basis (the pseudo-inverse), which it has, and so has the attacker.
    Fitted once, never over the batch that is released. The network is not re-trained.
    """

    name: ClassVar[str] = "pca"
    version: ClassVar[int] = 1
    only_in: ClassVar[str] = "inference"  # a partner's tail takes features, not their coefficients
    paper: ClassVar[str] = "Pearson, On lines and planes of closest fit to systems of points in space, 1901"

    keep: float = Field(0.25, gt=0, le=1, description="share of the components that are kept, at least one of them")

    def build(self, split: SplitModel) -> ProtectedModel:
        """The model before the components are known.

        Raises:
            DpbenchError: more channels than a covariance can be held of.
        """
        return PrincipalModel(split, self.keep)

    def fit(
        self,
        model: ProtectedModel,
        private: LabelledImages,
        *,
        generator: torch.Generator,
        progress: Callable[[str], None],
    ) -> None:
        """Take mean and basis from features of at most 2,048 private images."""
        assert isinstance(model, PrincipalModel)
        progress("measuring the features")
        mean, covariance = _moments(model.rows(batch) for batch in feature_batches(model, private, generator=generator))
        vectors = torch.linalg.eigh(covariance.cpu()).eigenvectors.flip(1)
        model.mean.copy_(mean)
        model.basis.copy_(vectors[:, : model.basis.shape[1]])


class PrincipalModel(UndoneModel):
    """Releases coefficients (N, ...) with k channels where the features have C."""

    mean: Tensor
    basis: Tensor

    def __init__(self, split: SplitModel, keep: float) -> None:
        super().__init__(split)
        shape = feature_shape(split)
        self.axis = channel_axis((1, *shape))
        channels = shape[self.axis - 1]
        if channels > MOST:
            raise DpbenchError(
                f"pca: the features at {split.split_point!r} have {channels} channels; expected at most {MOST}: "
                "split where features are maps or tokens"
            )
        kept = max(1, round(keep * channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("basis", torch.eye(channels)[:, :kept].clone())

    def rows(self, features: Tensor) -> Tensor:
        """(N, ...) -> (N, ..., C), float32."""
        return features.movedim(self.axis, -1).float()

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Features (N, ...) -> coefficients, the channels replaced by the components."""
        coefficients = (self.rows(features) - self.mean) @ self.basis
        return coefficients.movedim(-1, self.axis).to(features.dtype)

    def undo(self, released: Tensor) -> Tensor:
        """Coefficients -> the projections of the features, C channels again."""
        projected = self.rows(released) @ self.basis.T + self.mean
        return projected.movedim(-1, self.axis).to(released.dtype)


def _moments(batches: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean (C,) and covariance (C,C) of rows (n, ..., C), exact."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for batch in batches:
        rows = exact(batch.flatten(0, -2))
        count += len(rows)
        total = total.to(rows) + rows.sum(0)
        squares = squares.to(rows) + rows.T @ rows
    mean = total / count
    return mean, squares / count - mean[:, None] * mean
