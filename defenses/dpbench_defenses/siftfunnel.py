"""SIFT-FUNNEL: a narrow client whose releases are uncorrelated with the image, linearly and otherwise."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from dpbench.contract.images import LabelledImages
from dpbench.plugins.registry import register
from dpbench_defenses._dependence import distance_correlation_squared, pearson_squared
from dpbench_defenses._tuning import Criterion, FineTuning, Step, TrainedModel

SMOOTHING = 0.25
TASK, DISTANCE, SPARSITY, LINEAR = 5.0, 2.0, 0.03, 2.0
"""Weights of the four terms, as published."""


class FunnelCriterion(Criterion):
    """The task with smoothed labels, and three measures of what a release says of its image."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def loss(self, step: Step) -> Tensor:
        """The loss () of one batch."""
        # differs from the divergence by the labels' entropy, which no training changes
        task = F.cross_entropy(step.logits, step.labels, label_smoothing=SMOOTHING)
        hidden = (
            DISTANCE * distance_correlation_squared(step.images, step.released)
            + SPARSITY * step.released.abs().mean()
            + LINEAR * pearson_squared(step.images, step.released)
        )
        return task + self.strength * hidden / TASK


@register
class SiftFunnel(FineTuning):
    """SiftFunnel: Liu et al. 2025, "Information sifting funnel: privacy-preserving collaborative inference".

    Fine-tunes head and tail by 5 KL(labels smoothed by 0.25) + `strength` * (2 dCor^2(x, z) + 0.03 mean|z| + 2 mean
    over channels of Pearson's r^2), all divided by 5, so that the learning rate of the other defenses fits. The funnel
    is `bottleneck`. Made after a summary of the method, so that choices are ours: r is that of a channel with the
    brightness of the image over positions (over the batch where features lie on no grid); the network is fine-tuned
    from a fitted one and its client keeps its form; no weights are pruned. A fresh decoder that learns from queries
    judges it.
    """

    name: ClassVar[str] = "siftfunnel"
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "https://arxiv.org/abs/2501.00824"

    strength: float = Field(1.0, ge=0, le=1000, description="weight of what hides the image, beside the task")

    def criterion(self, model: TrainedModel, private: LabelledImages, *, generator: torch.Generator) -> Criterion:
        """The task's loss and the three measures, each with its weight."""
        return FunnelCriterion(self.strength)
