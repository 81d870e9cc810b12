"""Adversarial training: the head learns to starve reconstructors that learn beside it."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from dpbench.contract.images import LabelledImages
from dpbench.metrics.fidelity import ssim_unchecked
from dpbench.models.training import precision
from dpbench.plugins.registry import register
from dpbench_defenses._critics import Critics
from dpbench_defenses._tuning import Criterion, FineTuning, Step, TrainedModel

ENOUGH = 0.5
"""SSIM below which ResSFL leaves a reconstruction alone."""

DISTURBANCE = 0.05
"""Standard deviation of the noise, in pixels of [0,1], under which PATROL compares outputs with inputs."""

Kind = Literal["deep-obfuscator", "ressfl", "patrol"]


class AdversarialCriterion(Criterion):
    """Cross-entropy and what a reconstructor gets right, as one of three papers weighs it."""

    def __init__(
        self,
        kind: Kind,
        *,
        strength: float,
        smoothness: float,
        model: TrainedModel,
        critics: Critics,
        generator: torch.Generator,
    ) -> None:
        self.kind, self.strength, self.smoothness = kind, strength, smoothness
        self.model, self.critics, self.generator = model, critics, generator

    def loss(self, step: Step) -> Tensor:
        """The loss () of one batch; the critics learn from it first."""
        self.critics.learn(step.released, step.images)
        similarity = ssim_unchecked(self.critics.guess(step.released, step.images), step.images)
        if self.kind == "deep-obfuscator":
            return super().loss(step) + self.strength * similarity.abs().mean()
        loss = super().loss(step) + self.strength * (similarity - ENOUGH).relu().mean()
        return loss + self.smoothness * self._steepness(step) if self.kind == "patrol" else loss

    def _steepness(self, step: Step) -> Tensor:
        """By how much the head magnifies small changes of the image, in units of the features' spread, ()."""
        noise = DISTURBANCE * torch.randn(step.images.shape, generator=self.generator, device=step.images.device)
        with precision(step.images):
            disturbed = self.model.features(step.images + noise)
        change = disturbed.float() - step.features
        return change.square().mean().sqrt() / (step.features.detach().std() * DISTURBANCE + 1e-12)


@register
class Adversarial(FineTuning):
    """Head and tail against reconstructors, in one loop with the losses of three papers (`objective`).

    `deep-obfuscator`: cross-entropy + `strength` * |SSIM(D(z), x)| (Li et al. 2021, "DeepObfuscator: obfuscating
    intermediate representations with privacy-preserving adversarial learning"). `ressfl`: the SSIM counts above 0.5
    only (Li et al. 2022, "ResSFL: a resistance transfer framework for defending model inversion attack in split
    federated learning"); its 1x1 waist is `bottleneck = 8`. `patrol`: that, and `smoothness` times the ratio of the
    head's change to a small change of the image (Ding et al. 2024, "PATROL: privacy-oriented pruning for
    collaborative inference against model inversion attacks").

    Differs from all: the network is fine-tuned from a fitted one; `critics` reconstructors of different sizes learn
    beside it by squared error and SSIM and are the opponent in turn, none was trained before; DeepObfuscator's second
    adversary, who reads private attributes, is left out; ResSFL's transfer from an expert is; PATROL's ratio is taken
    over the whole head in place of each block, and no channels are pruned. Fresh decoders judge it.
    """

    name: ClassVar[str] = "adversarial"
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "https://arxiv.org/abs/1909.04126, https://arxiv.org/abs/2205.04007"
    trained_on: ClassVar[tuple[str, ...]] = ("ssim",)

    objective: Kind = Field("deep-obfuscator", description="whose loss: deep-obfuscator, ressfl or patrol")
    strength: float = Field(0.5, ge=0, le=1000, description="weight of the reconstructors' SSIM")
    smoothness: float = Field(0.1, ge=0, le=1000, description="patrol's weight of the head's steepness")
    critics: int = Field(1, ge=1, le=16, description="reconstructors trained in alternation")

    def criterion(self, model: TrainedModel, private: LabelledImages, *, generator: torch.Generator) -> Criterion:
        """The chosen loss, against reconstructors without any training."""
        critics = Critics(model, self.critics, generator=generator)
        return AdversarialCriterion(
            self.objective,
            strength=self.strength,
            smoothness=self.smoothness,
            model=model,
            critics=critics,
            generator=generator,
        )
