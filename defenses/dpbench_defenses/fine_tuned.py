"""Fine-tuning alone: what the training budget gives without any defense."""

from __future__ import annotations

from typing import ClassVar

import torch

from dpbench.contract.images import LabelledImages
from dpbench.plugins.registry import register
from dpbench_defenses._tuning import Criterion, FineTuning, TrainedModel


@register
class FineTuned(FineTuning):
    """The reference of every defense that fine-tunes: the same loop and budget, the cross-entropy alone.

    Where such a defense gains or loses accuracy, compare it with this row, not with `none`: a few more epochs change
    a network too. It hides nothing on purpose.
    """

    name: ClassVar[str] = "fine-tuned"
    version: ClassVar[int] = 1

    def criterion(self, model: TrainedModel, private: LabelledImages, *, generator: torch.Generator) -> Criterion:
        """Cross-entropy."""
        return Criterion()
