"""Siamese fine-tuning: features of a class close together, so that they tell less of the single image."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from dpbench.contract.feature_transform import feature_batches
from dpbench.contract.images import LabelledImages
from dpbench.plugins.registry import register
from dpbench.toolkit.calibration import mean_and_std
from dpbench_defenses._dependence import distances
from dpbench_defenses._tuning import Criterion, FineTuning, Step, TrainedModel


class ContrastiveCriterion(Criterion):
    """Cross-entropy and the contrastive loss of all pairs in a batch."""

    def __init__(self, strength: float, margin: float, unit: float) -> None:
        self.strength, self.margin, self.unit = strength, margin, unit

    def loss(self, step: Step) -> Tensor:
        """The loss () of one batch."""
        values = step.released[0].numel()
        apart = distances(step.released) / (self.unit * values**0.5)
        same = step.labels[:, None] == step.labels[None]
        contrast = torch.where(same, apart, (self.margin - apart).relu())
        pairs = max(1, len(apart) * (len(apart) - 1))  # the diagonal is zero and counts for nothing
        return super().loss(step) + self.strength * contrast.sum() / pairs


@register
class Siamese(FineTuning):
    """Osia et al. 2020, "A hybrid deep learning architecture for privacy-preserving mobile analytics".

    Fine-tunes head and tail by cross-entropy + `strength` * a contrastive loss on labels (Hadsell, Chopra & LeCun
    2006): d for two images of a class, max(0, `margin` - d) for others, d the distance of their releases. Differs: all
    pairs of a batch; distances are root mean squares over values in units of the features' spread before training, so
    that two strangers are about 1.4 apart whatever the split point, and `strength` and `margin` mean the same
    everywhere; neither the paper's noise nor its reduction of dimensions, which are `gaussian` and `bottleneck`.

    Classes that lie together are still read by a fresh decoder, which learns from queries.
    """

    name: ClassVar[str] = "siamese"
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "https://arxiv.org/abs/1703.02952"

    strength: float = Field(1.0, ge=0, le=1000, description="weight of the contrastive loss")
    margin: float = Field(2.0, gt=0, le=1000, description="distance beyond which other classes are left alone")

    def criterion(self, model: TrainedModel, private: LabelledImages, *, generator: torch.Generator) -> Criterion:
        """Cross-entropy + `strength` * contrast."""
        codes = (model.code(batch).detach() for batch in feature_batches(model, private, generator=generator))
        return ContrastiveCriterion(self.strength, self.margin, float(mean_and_std(codes)[1]) + 1e-12)
