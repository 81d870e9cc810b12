"""DISCO: a pruner that reads the features of an image and drops the channels that show it."""

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
from dpbench.toolkit.calibration import channel_scales
from dpbench_defenses._critics import Critics
from dpbench_defenses._dpm_training import initialise
from dpbench_defenses._halves import device_of
from dpbench_defenses._tuning import Criterion, Step, TrainedModel, Training

TEMPERATURE = 0.03
"""Of the soft mask whose gradient stands in for that of the hard one."""

HIDDEN = 128


class PrunedModel(TrainedModel):
    """Of each image's features the channels with the lowest scores are released as zeros."""

    mean: Tensor
    std: Tensor

    def __init__(self, split: SplitModel, share: float) -> None:
        super().__init__(split)
        channels = self.released_channels
        self.dropped = min(int(share * channels), channels - 1)
        with torch.device(device_of(split)), torch.random.fork_rng(devices=[]):
            self.pruner = nn.Sequential(nn.Linear(2 * channels, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, channels))
            self.register_buffer("mean", torch.zeros(channels))
            self.register_buffer("std", torch.ones(channels))

    def mask(self, features: Tensor) -> Tensor:
        """(N, ...) -> (N,C): 1 for channels that are released, 0 for the others; with a surrogate gradient."""
        values = features.float().movedim(self.released_axis, 1).flatten(2 if features.ndim > 2 else 1)
        values = values if values.ndim == 3 else values[:, :, None]
        centred = (values - self.mean[:, None]) / self.std[:, None]
        logits = self.pruner(torch.cat([centred.mean(2), centred.square().mean(2).sqrt()], 1)).float()
        # by rank of what no sigmoid has rounded: where scores saturate, as many channels are dropped as elsewhere
        order = logits.argsort(dim=1, stable=True)
        hard = torch.ones_like(logits).scatter(1, order[:, : self.dropped], 0.0)
        scores = logits.sigmoid()
        # the highest score that is dropped; 0, which no score is, where none is
        threshold = F.pad(scores.gather(1, order), (1, 0))[:, self.dropped : self.dropped + 1]
        soft = ((scores - threshold.detach()) / TEMPERATURE).sigmoid()
        mask: Tensor = hard + (soft - soft.detach())
        return mask

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """The features, some channels zero."""
        mask = self.mask(features)
        behind = [1] * (features.ndim - 1 - self.released_axis)
        mask = mask.view(len(mask), *[1] * (self.released_axis - 1), -1, *behind)
        return features * mask.to(features.dtype)


class DiscoCriterion(Criterion):
    """Cross-entropy, less the error of a reconstructor that learns beside."""

    def __init__(self, critics: Critics, strength: float) -> None:
        self.critics, self.strength = critics, strength

    def loss(self, step: Step) -> Tensor:
        """The loss () of one batch; the critics learn from it first."""
        self.critics.learn(step.released, step.images)
        error = F.mse_loss(self.critics.guess(step.released, step.images), step.images)
        return super().loss(step) - self.strength * error


@register
class Disco(Training):
    """Singh et al. 2021, "DISCO: dynamic and invariant sensitive channel obfuscation for deep neural networks".

    A pruner scores the channels of each image; the `share` with the lowest scores leaves the client as zeros. It
    learns by cross-entropy - `strength` * the squared error of reconstructors that learn beside it. Differs: the
    network is frozen, where the paper trains client and server too; the reconstructors stand in for the paper's
    predictor of a private attribute; the pruner reads each channel's mean and spread over positions; the mask is hard
    at every release, the paper's sigmoid of temperature 0.03 gives its gradient; exactly floor(share * C) channels of
    each image are dropped, of equal scores the first.

    The mask is seen in the release and depends on the image: attackers condition on it.
    """

    name: ClassVar[str] = "disco"
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "https://arxiv.org/abs/2012.11025"
    trained_on: ClassVar[tuple[str, ...]] = ("mse",)

    share: float = Field(0.2, ge=0, lt=1, description="of the channels that is dropped, rounded down")
    strength: float = Field(1.0, ge=0, le=1000, description="weight of the reconstructors' squared error")
    critics: int = Field(1, ge=1, le=16, description="reconstructors trained in alternation")
    learning_rate: float = Field(3e-3, gt=0, le=1, description="peak of the one-cycle schedule, AdamW")

    def build(self, split: SplitModel) -> PrunedModel:
        """For features of any shape."""
        return PrunedModel(split, self.share)

    @torch.no_grad()
    def prepare(self, model: TrainedModel, private: LabelledImages, *, generator: torch.Generator) -> Criterion:
        """Add a pruner that is not trained yet; it reads features divided by their spread."""
        assert isinstance(model, PrunedModel)
        mean, std = channel_scales(feature_batches(model, private, generator=generator), model.released_axis)
        model.mean.copy_(mean)
        model.std.copy_(std)
        initialise(model.pruner, generator)
        return DiscoCriterion(Critics(model, self.critics, generator=generator, structural=False), self.strength)
