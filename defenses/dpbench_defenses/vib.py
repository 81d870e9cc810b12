"""A variational bottleneck: the client releases a draw whose information about the image is bounded."""

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
from dpbench_defenses._halves import device_of
from dpbench_defenses._tuning import Criterion, FineTuning, Step, TrainedModel

OFFSET = 0.5
"""sigma = softplus(s - 0.5)."""

START = -1.0
"""s before training: a sigma of 0.2, in units of the features' spread."""


class VariationalModel(TrainedModel):
    """Releases mu + sigma * e; both are functions of the features in units of their spread, channel by channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, split: SplitModel, bottleneck: int) -> None:
        super().__init__(split, bottleneck)
        with torch.device(device_of(split)):
            self.slope = nn.Parameter(torch.zeros(self.released_channels))
            self.level = nn.Parameter(torch.full((self.released_channels,), START))
            self.register_buffer("mean", torch.zeros(self.released_channels))
            self.register_buffer("std", torch.ones(self.released_channels))

    def distribution(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of what is released of features (N, ...), each (N, ...) float32."""
        mu = (self.code(features).float() - self.by_channel(self.mean)) / self.by_channel(self.std)
        return mu, F.softplus(self.by_channel(self.slope) * mu + self.by_channel(self.level) - OFFSET)

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """A draw, in the units of the features."""
        mu, sigma = self.distribution(features)
        noise = torch.randn(mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
        drawn = (mu + sigma * noise) * self.by_channel(self.std) + self.by_channel(self.mean)
        return drawn.to(features.dtype)


class VariationalCriterion(Criterion):
    """Cross-entropy and the divergence of what is released from a standard normal."""

    def __init__(self, model: VariationalModel, strength: float) -> None:
        self.model, self.strength = model, strength

    def loss(self, step: Step) -> Tensor:
        """The loss () of one batch."""
        mu, sigma = self.model.distribution(step.features)
        sigma = sigma.clamp_min(1e-6)
        divergence = (mu.square() + sigma.square() - 1).mean() / 2 - sigma.log().mean()
        return super().loss(step) + self.strength * divergence


@register
class VariationalBottleneck(FineTuning):
    """Alemi et al. 2017, "Deep variational information bottleneck"; as a defense MID, Wang, Zhang & Jia 2021.

    Releases z = mu + sigma * e with sigma = softplus(s - 0.5), e standard normal, and fine-tunes head and tail by
    cross-entropy + `strength` * KL(N(mu, sigma^2) || N(0, 1)). Differs: mu are the features, or the bottleneck's
    channels, in units of their spread, and s is an affine function of them for each channel, so that the client costs
    no more than before; the divergence is averaged over values, where the papers add them up, so that `strength` means
    the same for small and large features. The bound holds on average over images, not for each.

    One release is a draw: attackers average over draws, and decoders learn to.
    """

    name: ClassVar[str] = "vib"
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "https://arxiv.org/abs/1612.00410, https://arxiv.org/abs/2009.05241"
    own_rate: ClassVar[float] = 30.0

    strength: float = Field(1.0, ge=0, le=1000, description="weight of the divergence per released value")

    def build(self, split: SplitModel) -> VariationalModel:
        """The network, which `fit` trains; features of any shape."""
        return VariationalModel(split, self.bottleneck)

    @torch.no_grad()
    def criterion(self, model: TrainedModel, private: LabelledImages, *, generator: torch.Generator) -> Criterion:
        """Cross-entropy + `strength` * KL."""
        assert isinstance(model, VariationalModel)
        codes = (model.code(batch) for batch in feature_batches(model, private, generator=generator))
        mean, std = channel_scales(codes, model.released_axis)
        model.mean.copy_(mean)
        model.std.copy_(std)
        return VariationalCriterion(model, self.strength)
