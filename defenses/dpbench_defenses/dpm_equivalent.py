"""Deep Poisoning without labels: the module keeps what the network says, not what it should have said."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from dpbench.plugins.registry import register
from dpbench_defenses._dpm_training import Poisoning, equivalence


@register
class EquivalentPoisoning(Poisoning):
    """`dpm` trained on functional equivalence alone: its loss never sees a label.

    With labels in its loss the module of `dpm` learns the task from its owner's images, and writes what it learned
    into the features that it releases: the public network then reads them better than clean ones, and a partner who
    trains on them has little left to learn. This is ours, not the paper's. Loss = KL to the clean logits +
    `strength` * |SSIM(R(P(z)), x)|; all else as in `dpm`.
    """

    name: ClassVar[str] = "dpm-equivalent"
    version: ClassVar[int] = 1

    def task_loss(self, logits: Tensor, clean_logits: Tensor, labels: Tensor) -> Tensor:
        """KL(clean || poisoned), (N,classes) twice -> () in nats; `labels` are left aside."""
        return equivalence(logits, clean_logits)
