"""Shredder: a few noise tensors that were learned to leave the task alone, one of them added to each release."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from dpbench.contract.defense import SplitModel
from dpbench.contract.feature_transform import feature_batches
from dpbench.contract.images import LabelledImages
from dpbench.plugins.registry import register
from dpbench.toolkit.calibration import mean_and_std
from dpbench_defenses._halves import device_of
from dpbench_defenses._tuning import Criterion, Step, TrainedModel, Training


class NoisyModel(TrainedModel):
    """One of `tensors` noise tensors is added to each image's features, drawn anew for every release."""

    unit: Tensor

    def __init__(self, split: SplitModel, tensors: int) -> None:
        super().__init__(split)
        with torch.device(device_of(split)):
            self.tensors = nn.Parameter(torch.zeros(tensors, *self.released_shape))
            self.register_buffer("unit", torch.ones(()))

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Features (N, ...) + a tensor for each image."""
        drawn = torch.randint(len(self.tensors), (len(features),), generator=generator, device=features.device)
        return (features + self.unit * self.tensors[drawn]).to(features.dtype)


class ShredderCriterion(Criterion):
    """Cross-entropy; the noise grows in steps in which the noisy features are read as well as the clean ones."""

    def __init__(self, model: NoisyModel, strength: float, tolerance: float) -> None:
        self.model, self.strength, self.tolerance = model, strength, tolerance

    def loss(self, step: Step) -> Tensor:
        """The loss () of one batch."""
        with torch.no_grad():
            clean = self.model.predict(step.features).argmax(1) == step.labels
        noisy = step.logits.argmax(1) == step.labels
        holds = (noisy.float().mean() >= (1 - self.tolerance) * clean.float().mean()).float()
        return F.cross_entropy(step.logits, step.labels) - self.strength * holds * self.model.tensors.abs().mean()


@register
class Shredder(Training):
    """Mireshghallah et al. 2020, "Shredder: learning noise distributions to protect inference privacy".

    The network is frozen. Noise tensors start from a Laplace distribution and learn by cross-entropy - `strength` *
    mean|noise|, on private images; each release adds one of them, drawn for each image. Differs: all tensors learn at
    once, each from its share of every batch; noise grows while a batch is read as well as without it, but for
    `tolerance`, where the paper lets its weight decay by hand; stored tensors are drawn, none is sampled from a
    distribution fitted to them; scales are relative to the features' standard deviation; tensors start around 0, not
    0.6, and `strength` is 1, not 0.001, for a budget of some epochs.

    A few tensors are few: who may query finds them by repeated queries and subtracts the likeliest (the attack
    `mixture`); who holds the client reads them.
    """

    name: ClassVar[str] = "shredder"
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "https://arxiv.org/abs/1905.11814"

    scale: float = Field(1.0, ge=0, le=1000, description="b of the Laplace noise that training starts from")
    strength: float = Field(1.0, ge=0, le=1000, description="weight of the mean absolute noise, which is to grow")
    tolerance: float = Field(0.05, ge=0, le=1, description="share of the accuracy on private images that may be lost")
    tensors: int = Field(8, ge=1, le=1024, description="noise tensors to draw from")
    learning_rate: float = Field(0.02, gt=0, le=1, description="peak of the one-cycle schedule, AdamW")

    def build(self, split: SplitModel) -> NoisyModel:
        """For features of any shape; there is no noise before `fit`."""
        return NoisyModel(split, self.tensors)

    @torch.no_grad()
    def prepare(self, model: TrainedModel, private: LabelledImages, *, generator: torch.Generator) -> Criterion:
        """Draw the first noise tensors: Laplace, in units of the features' spread."""
        assert isinstance(model, NoisyModel)
        model.unit.copy_(mean_and_std(feature_batches(model, private, generator=generator))[1])
        shape = model.tensors.shape
        # the difference of two exponentials
        first, second = (-torch.log1p(-torch.rand(shape, generator=generator, device=generator.device)) for _ in "ab")
        model.tensors.copy_(self.scale * (first - second))
        return ShredderCriterion(model, self.strength, self.tolerance)
