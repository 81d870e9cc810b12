"""Adversarial training: the head learns to starve reconstructors that learn beside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from dpbench.contract.defense import ProtectedModel, SplitModel
from dpbench.contract.images import LabelledImages
from dpbench.metrics.fidelity import ssim_unchecked
from dpbench.models.training import precision
from dpbench.plugins.registry import register
from dpbench_defenses._critics import Critics
from dpbench_defenses._pruning import Pruned
from dpbench_defenses._tuning import Criterion, FineTuning, Step, TrainedModel

ENOUGH = 0.5
"""SSIM below which ResSFL leaves a reconstruction alone."""

DISTURBANCE = 0.05
"""Standard deviation of the noise, in pixels of [0,1], under which PATROL compares outputs with inputs."""

SPARSITY = 0.1
"""Weight of the mean of PATROL's masks, until channels are taken out."""

Kind = Literal["deep-obfuscator", "ressfl", "patrol"]


class AdversarialCriterion(Criterion):
    """Cross-entropy and what a reconstructor gets right, as one of three papers weighs it."""

    def __init__(
        self,
        kind: Kind,
        *,
        strength: float,
        smoothness: float,
        epochs: int,
        model: TrainedModel,
        critics: Critics,
        generator: torch.Generator,
    ) -> None:
        self.kind, self.strength, self.smoothness = kind, strength, smoothness
        self.epoch, self.pruned_before = 0, math.ceil(epochs / 2)
        self.model, self.critics, self.generator = model, critics, generator

    def start_epoch(self) -> None:
        """Half way through, the channels with the lowest masks are taken out."""
        if isinstance(self.model, Pruned) and self.epoch == self.pruned_before:
            self.model.prune()
        self.epoch += 1

    def loss(self, step: Step) -> Tensor:
        """The loss () of one batch; the critics learn from it first."""
        self.critics.learn(step.released, step.images)
        similarity = ssim_unchecked(self.critics.guess(step.released, step.images), step.images)
        if self.kind == "deep-obfuscator":
            return super().loss(step) + self.strength * similarity.abs().mean()
        loss = super().loss(step) + self.strength * (similarity - ENOUGH).relu().mean()
        if isinstance(self.model, Pruned) and not self.model.decided:
            loss = loss + SPARSITY * self.model.mask().mean()
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
    collaborative inference against model inversion attacks"); with `prune` masks of the released channels learn beside
    head and tail under the same loss and the mean of the masks, half way through those with the lowest are taken out,
    and the rest of the training makes up for it. They are never sent: the server reads zeros.

    Differs from all: the network is fine-tuned from a fitted one; `critics` reconstructors of different sizes learn
    beside it by squared error and SSIM and are the opponent in turn, none was trained before; DeepObfuscator's second
    adversary, who reads private attributes, is left out; ResSFL's transfer from an expert is; PATROL's ratio is taken
    over the whole head in place of each block, it prunes what is released, not what is inside the head, and the room
    that it makes is not filled with further layers; `strength` is DeepObfuscator's 0.5 for all, ResSFL's is 0.3. Fresh
    decoders judge it.
    """

    name: ClassVar[str] = "adversarial"
    version: ClassVar[int] = 1
    ids_skip_default: ClassVar[tuple[str, ...]] = ("prune",)
    paper: ClassVar[str] = (
        "https://arxiv.org/abs/1909.04126, https://arxiv.org/abs/2205.04007, https://arxiv.org/abs/2307.10981"
    )
    trained_on: ClassVar[tuple[str, ...]] = ("ssim",)

    objective: Kind = Field("deep-obfuscator", description="whose loss: deep-obfuscator, ressfl or patrol")
    strength: float = Field(0.5, ge=0, le=1000, description="weight of the reconstructors' SSIM")
    smoothness: float = Field(0.1, ge=0, le=1000, description="patrol's weight of the head's steepness")
    critics: int = Field(1, ge=1, le=16, description="reconstructors trained in alternation")
    prune: float = Field(0.0, ge=0, lt=1, description="share of the released channels that patrol takes out for good")

    @model_validator(mode="after")
    def _prunes(self) -> Adversarial:
        if self.prune and self.objective != "patrol":
            raise ValueError(
                f"prune = {self.prune} belongs to objective = 'patrol', not {self.objective!r}; leave it out"
            )
        return self

    def build(self, split: SplitModel) -> TrainedModel:
        """The network, which `fit` trains; features of any shape."""
        return Pruned(split, self.bottleneck, self.prune) if self.prune else super().build(split)

    def fit(
        self,
        model: ProtectedModel,
        private: LabelledImages,
        *,
        generator: torch.Generator,
        progress: Callable[[str], None],
    ) -> None:
        """See `Training`; of channels that are taken out, the others are released from here on."""
        if isinstance(model, Pruned):
            model.begin()
        super().fit(model, private, generator=generator, progress=progress)
        if isinstance(model, Pruned):
            model.close()

    def criterion(self, model: TrainedModel, private: LabelledImages, *, generator: torch.Generator) -> Criterion:
        """The chosen loss, against reconstructors without any training."""
        critics = Critics(model, self.critics, generator=generator)
        return AdversarialCriterion(
            self.objective,
            strength=self.strength,
            smoothness=self.smoothness,
            epochs=self.epochs,
            model=model,
            critics=critics,
            generator=generator,
        )
