"""NoPeek: features whose distances say little about the distances of the images."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from dpbench.contract.images import LabelledImages
from dpbench.plugins.registry import register
from dpbench_defenses._dependence import distance_correlation_squared
from dpbench_defenses._tuning import Criterion, FineTuning, Step, TrainedModel


class NoPeekCriterion(Criterion):
    """Cross-entropy and the distance correlation of images and releases."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def loss(self, step: Step) -> Tensor:
        """The loss () of one batch."""
        dependence = distance_correlation_squared(step.images, step.released)
        return super().loss(step) + self.strength * dependence.clamp_min(1e-6).sqrt()


@register
class NoPeek(FineTuning):
    """Vepakomma et al. 2020, "NoPeek: information leakage reduction to share activations in distributed learning".

    Head and tail are fine-tuned by cross-entropy + `strength` * dCor(images, releases) over each batch. Distances are
    not squared: squared ones, which many implementations take, see linear dependence only. Differs: the network is
    fine-tuned from a fitted one, where the paper trains from scratch; dCor itself in place of its logarithm. What
    judges it is a fresh decoder that is trained on queries: a low dCor over batches says nothing about that.
    """

    name: ClassVar[str] = "nopeek"
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "https://arxiv.org/abs/2008.09161"

    strength: float = Field(3.0, ge=0, le=1000, description="weight of the distance correlation")

    def criterion(self, model: TrainedModel, private: LabelledImages, *, generator: torch.Generator) -> Criterion:
        """Cross-entropy + `strength` * dCor."""
        return NoPeekCriterion(self.strength)
