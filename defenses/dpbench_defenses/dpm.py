"""Deep Poisoning: a learned module that keeps the task and starves a reconstructor."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from dpbench.plugins.registry import register
from dpbench_defenses._dpm_training import Poisoning, equivalence


@register
class DeepPoisoning(Poisoning):
    """DPM, re-implemented from the abstract of Guo et al. (arXiv 1912.06895, WACV 2021); our choices below.

    Public is this: a private module at a convolutional layer of a pre-trained network, trained so that
    reconstructions of its output fail structurally (SSIM) while the task result stays functionally equivalent.
    Layer, architecture, weights, schedule and figures of the paper were not at hand: nothing here may be
    compared with its figures.

    Our choices: residual blocks at the width of the features (convolutions for maps, transformer blocks for tokens
    and for flat features, which are cut into tokens); head and tail frozen; loss = KL to the clean logits +
    cross-entropy + `strength` * |SSIM(R(P(z)), x)|; images mirrored at random.

    Beyond the paper: with `channels` > 0 the module has a narrow waist half way, channels * grid**2 values an
    image for maps, `channels` a token for tokens. What it does not carry no attacker learns to read, so this part
    holds against fresh attackers where training against known ones does not. The price is that the client does
    part of the server's work, and that many classes need a wider waist. In a short trial (one seed) the waist did
    most of the hiding and the reconstructors little: sweep `grid` and `channels` too, not `strength` alone.

    With `match` the loss also holds the activations of these stages of the public tail, such as layer3: their mean
    squared change over their variance, summed. What a partner can learn sits there: equal logits alone teach nothing.
    In a trial it taught all that clean images do, and hid little. It too is beyond the paper.

    A pool of reconstructors R of different sizes and starts trains in alternation: each at every step by MSE, and
    by SSIM too when it is its turn to be the module's opponent. Up to two thirds of the way one of them is
    replaced by an untrained one at every epoch, so that the module does not learn to fool one history. They are
    not kept: a fresh attacker judges, never one that the defense has trained against.
    """

    name: ClassVar[str] = "dpm"
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "Guo et al., Deep Poisoning, arXiv 1912.06895, WACV 2021 (from the abstract)"

    def task_loss(self, logits: Tensor, clean_logits: Tensor, labels: Tensor) -> Tensor:
        """KL(clean || poisoned) + cross-entropy, (N,classes) twice and (N,) -> () in nats."""
        return equivalence(logits, clean_logits) + F.cross_entropy(logits, labels)
