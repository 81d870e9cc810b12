"""Cloak: noise on the pixels, as strong at each as the task can bear."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from dpbench.contract.defense import SplitModel
from dpbench.contract.images import LabelledImages
from dpbench.plugins.registry import register
from dpbench_defenses._halves import device_of
from dpbench_defenses._tuning import Criterion, Step, TrainedModel, Training


class CloakedModel(TrainedModel):
    """The head sees x + mu + sigma * e in place of x: one mu and one sigma for each pixel and colour.

    Args:
        split: of the network.
        largest: sigma stays below it, in pixels of [0,1].
    """

    def __init__(self, split: SplitModel, largest: float) -> None:
        super().__init__(split)
        self.largest = largest
        with torch.device(device_of(split)):
            self.mu = nn.Parameter(torch.zeros(split.image_shape))
            self.rho = nn.Parameter(torch.zeros(split.image_shape))

    def sigma(self) -> Tensor:
        """(3,H,W) in pixels of [0,1]."""
        return (1 + self.rho.tanh()) / 2 * self.largest

    def veil(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Images (N,3,H,W) -> the same under noise, no longer within [0,1]."""
        noise = torch.randn(images.shape, generator=generator, dtype=images.dtype, device=images.device)
        return images + self.mu + self.sigma() * noise


class CloakCriterion(Criterion):
    """Cross-entropy, less the logarithm of the noise."""

    def __init__(self, model: CloakedModel, strength: float) -> None:
        self.model, self.strength = model, strength

    def loss(self, step: Step) -> Tensor:
        """The loss () of one batch."""
        return super().loss(step) - self.strength * self.model.sigma().clamp_min(1e-8).log().mean()


@register
class Cloak(Training):
    """Mireshghallah et al. 2021, "Not all features are equal: discovering essential features for preserving privacy".

    The network is frozen; the client adds noise of a learned mean and standard deviation to each pixel, trained by
    cross-entropy - `strength` * mean log sigma on private images, sigma = (1 + tanh(rho)) / 2 * `largest`. Differs:
    pixels are those of [0,1], before the network's normalisation; rho starts at -2 and learns at a higher rate, and
    `strength` is 0.1 in place of 0.01, for the budget here is short; pixels of much noise are not replaced by a
    constant afterwards.

    Attackers average over draws, and decoders learn to see through the noise; the mean they learn as well.
    """

    name: ClassVar[str] = "cloak"
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "https://arxiv.org/abs/2003.12154"

    strength: float = Field(0.1, ge=0, le=1000, description="weight of the mean logarithm of the noise")
    largest: float = Field(1.0, gt=0, le=100, description="largest standard deviation, in pixels of [0,1]")
    learning_rate: float = Field(0.03, gt=0, le=1, description="peak of the one-cycle schedule, AdamW")

    def build(self, split: SplitModel) -> CloakedModel:
        """For features of any shape."""
        return CloakedModel(split, self.largest)

    @torch.no_grad()
    def prepare(self, model: TrainedModel, private: LabelledImages, *, generator: torch.Generator) -> Criterion:
        """Start with little noise at every pixel."""
        assert isinstance(model, CloakedModel)
        model.rho.fill_(-2.0)
        return CloakCriterion(model, self.strength)
