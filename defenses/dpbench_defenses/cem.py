"""Conditional entropy: releases of a class as spread as noise allows around a few centres."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from dpbench.contract.defense import AdditiveNoise, SplitModel
from dpbench.contract.feature_transform import feature_batches
from dpbench.contract.images import LabelledImages
from dpbench.plugins.registry import register
from dpbench.toolkit.calibration import mean_and_std
from dpbench_defenses._halves import device_of
from dpbench_defenses._tuning import Criterion, FineTuning, Step, TrainedModel

SMOOTHING = 0.01
"""Added to variances before the logarithm."""

FLOOR = 0.125
"""Share of the noise's variance down to which clusters are drawn together."""

MOST_IMAGES = 2048
MOST_VALUES = 1 << 26
"""Private images, and values of theirs, that the clusters are found on."""

ROUNDS = 5
"""Of Lloyd's algorithm, at every epoch."""


class ScatteredModel(TrainedModel):
    """Gaussian noise on the features, or on the bottleneck's channels."""

    noise_std: Tensor

    def __init__(self, split: SplitModel, bottleneck: int) -> None:
        super().__init__(split, bottleneck)
        with torch.device(device_of(split)):
            self.register_buffer("noise_std", torch.zeros(()))

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """What is released, with noise."""
        clean = self.code(features)
        noise = torch.randn(clean.shape, generator=generator, dtype=torch.float32, device=clean.device)
        return (clean + self.noise_std * noise).to(features.dtype)

    def location(self, images: Tensor) -> Tensor:
        """What is released, without noise."""
        return self.code(self.features(images))

    def noise(self) -> AdditiveNoise:
        """Gaussian."""
        return AdditiveNoise("gaussian", float(self.noise_std))


class EntropyCriterion(Criterion):
    """Cross-entropy and the logarithm of the clusters' variances."""

    def __init__(
        self,
        model: ScatteredModel,
        private: LabelledImages,
        *,
        strength: float,
        sigma: float,
        unit: float,
        clusters: int,
        generator: torch.Generator,
    ) -> None:
        self.model, self.private, self.generator = model, private, generator
        self.strength, self.sigma, self.unit, self.clusters = strength, sigma, unit, clusters
        self.centres = self.classes = torch.empty(0)

    @torch.no_grad()
    def start_epoch(self) -> None:
        """Clusters of every class, among what would be released of private images without noise."""
        private, device = self.private, self.private.images.device
        values = self.model.released_shape
        most = min(MOST_IMAGES, max(len(private.labels.unique()), MOST_VALUES // torch.Size(values).numel()))
        drawn = torch.randperm(len(private), generator=self.generator, device=device)[:most]
        codes = torch.cat(
            [self._code(self.model.features(private.images[some])) for some in drawn.split(private.training_batch(64))]
        )
        labels = private.labels[drawn]
        found = [(label, self._centres(codes[labels == label])) for label in labels.unique()]
        self.centres = torch.cat([centres for _, centres in found])
        self.classes = torch.cat([label.repeat(len(centres)) for label, centres in found])

    def _code(self, features: Tensor) -> Tensor:
        return self.model.code(features).float().flatten(1) / self.unit

    def _centres(self, codes: Tensor) -> Tensor:
        """k-means of one class's codes (n,D) -> (k,D)."""
        centres = codes[: self.clusters].clone()  # they are in random order
        for _ in range(ROUNDS):
            nearest = torch.cdist(codes, centres).argmin(1)
            for index in range(len(centres)):
                members = codes[nearest == index]
                if len(members):
                    centres[index] = members.mean(0)
        return centres

    def loss(self, step: Step) -> Tensor:
        """The loss () of one batch."""
        return super().loss(step) + self.strength * self._entropy(self._code(step.features), step.labels)

    def _entropy(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Mean over clusters, by their members in the batch, of how far log variances exceed the noise's."""
        others = self.classes[None] != labels[:, None]
        nearest = torch.cdist(codes.detach(), self.centres).masked_fill(others, torch.inf).argmin(1)
        known = ~others.all(1)
        hot = torch.nn.functional.one_hot(nearest, len(self.centres)).to(codes.dtype) * known[:, None]
        members = hot.sum(0)
        variances = hot.T @ (codes - self.centres[nearest]).square() / members.clamp_min(1)[:, None]
        least = FLOOR * self.sigma**2 + SMOOTHING
        excess = ((variances + SMOOTHING) / least).log().relu().mean(1)
        return (members * excess).sum() / members.sum().clamp_min(1)


@register
class ConditionalEntropy(FineTuning):
    """Xia et al. 2025, "Theoretical insights in model inversion robustness and conditional entropy maximization".

    Gaussian noise of `sigma` on what is released, and fine-tuning by cross-entropy + `strength` * R: at every epoch the
    clean releases of each class are divided into `clusters` by k-means, and R is the mean over clusters and values of
    relu(log(v + 0.01) - log(0.125 sigma^2 + 0.01)), v the variance within the cluster; this bounds how much a release
    tells of an image beyond its class from above. Differs: values are in units of the features' spread before training;
    v is taken around the epoch's centres over each batch, weighted by the members that are in it; the network is
    fine-tuned from a fitted one; `strength` is 1 where the paper has 8 or 16; `bottleneck = 8` is the paper's. The
    noise alone is what `gaussian` is.

    One release is a draw: attackers average over draws, and decoders learn to.
    """

    name: ClassVar[str] = "cem"
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "https://arxiv.org/abs/2503.00383"

    strength: float = Field(1.0, ge=0, le=1000, description="weight of the clusters' log variances")
    sigma: float = Field(0.15, ge=0, le=1000, description="noise std, relative to the spread of what is released")
    clusters: int = Field(5, ge=1, le=1024, description="of each class")

    def build(self, split: SplitModel) -> ScatteredModel:
        """The network, which `fit` trains; features of any shape."""
        return ScatteredModel(split, self.bottleneck)

    @torch.no_grad()
    def criterion(self, model: TrainedModel, private: LabelledImages, *, generator: torch.Generator) -> Criterion:
        """Cross-entropy + `strength` * R."""
        assert isinstance(model, ScatteredModel)
        codes = (model.code(batch) for batch in feature_batches(model, private, generator=generator))
        unit = float(mean_and_std(codes)[1]) + 1e-12
        model.noise_std.fill_(self.sigma * unit)
        return EntropyCriterion(
            model,
            private,
            strength=self.strength,
            sigma=self.sigma,
            unit=unit,
            clusters=self.clusters,
            generator=generator,
        )
