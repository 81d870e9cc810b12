"""One loop for every defense that trains on the private images: the network's halves, or something beside them."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from dpbench.contract.defense import Defense, ProtectedModel, SplitModel
from dpbench.contract.feature_transform import feature_batches
from dpbench.contract.images import LabelledImages
from dpbench.models.training import assert_finite, augment, one_cycle, precision
from dpbench.toolkit.inversion import channel_axis
from dpbench_defenses._dpm_training import frozen
from dpbench_defenses._halves import device_of, feature_shape

LARGEST_GRADIENT = 1.0
"""Norm to which gradients are clipped: penalties pull hard in the first steps."""

ROWS_PER_BATCH = 1024
"""Positions of a batch of features whose channels a bottleneck's principal axes are taken from."""


class Bottleneck(nn.Module):
    """A linear map of the channels to a few, which the client computes, and one back, which the server computes.

    Args:
        channels: of the features.
        width: channels that are released.
        axis: of the channels in features (N, ...). Those of released maps come first, whatever the features' order.
    """

    mean: Tensor

    def __init__(self, channels: int, width: int, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.down = nn.Parameter(torch.zeros(width, channels))
        self.up = nn.Parameter(torch.zeros(channels, width))
        self.register_buffer("mean", torch.zeros(channels))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor], generator: torch.Generator) -> None:
        """Start from the principal axes of the channels: what the server gets back is the closest it can be."""
        samples = []
        for batch in batches:
            rows = batch.movedim(self.axis, -1).flatten(0, -2)
            chosen = torch.randperm(len(rows), generator=generator, device=generator.device)[:ROWS_PER_BATCH]
            samples.append(rows[chosen.to(rows.device)])
        rows = torch.cat(samples)
        self.mean.copy_(rows.mean(0))
        # on the CPU: the same on every device
        axes = torch.linalg.svd((rows - self.mean).cpu(), full_matrices=False).Vh[: len(self.down)]
        self.down[: len(axes)] = axes.to(self.down)
        self.up[:, : len(axes)] = axes.T.to(self.up)

    def narrow(self, features: Tensor) -> Tensor:
        """Features -> (N,width,H,W) of maps, (N,L,width) of tokens, (N,width) of flat ones."""
        code = (features.movedim(self.axis, -1) - self.mean) @ self.down.T
        return code.movedim(-1, 1) if code.ndim == 4 else code

    def widen(self, code: Tensor) -> Tensor:
        """What `narrow` gave -> features in their own shape."""
        rows = code.movedim(1, -1) if code.ndim == 4 else code
        return (rows @ self.up.T + self.mean).movedim(-1, self.axis)


class TrainedModel(ProtectedModel):
    """A split model whose halves may learn; what it releases may go through a bottleneck.

    Args:
        split: the defense's own, as the engine hands it out: `fit` changes it.
        bottleneck: released channels, or all of them if there are fewer; 0 releases the features themselves.
    """

    def __init__(self, split: SplitModel, bottleneck: int = 0) -> None:
        super().__init__(split)
        shape = feature_shape(split)
        axis = channel_axis((1, *shape))
        channels = shape[axis - 1]
        self.bottleneck: Bottleneck | None = None
        if bottleneck:
            others = [size for place, size in enumerate(shape) if place != axis - 1]
            width = min(bottleneck, channels)
            with torch.device(device_of(split)):
                self.bottleneck = Bottleneck(channels, width, axis)
            shape = (*others, width) if axis == 2 else (width, *others)
            axis, channels = 2 if axis == 2 else 1, width
        self.released_shape = shape
        self.released_axis = axis
        self.released_channels = channels

    def by_channel(self, values: Tensor) -> Tensor:
        """(C,) -> the same values, in a shape that broadcasts against what is released."""
        return values.view(-1, *[1] * (len(self.released_shape) - self.released_axis))

    def veil(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """What the head is given instead of the images."""
        return images

    def code(self, features: Tensor) -> Tensor:
        """What is released of features, before anything is added to it or taken away."""
        return features if self.bottleneck is None else self.bottleneck.narrow(features)

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """The features, through the bottleneck if there is one."""
        return self.code(features).to(features.dtype)

    def release(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Client side: images (N,3,H,W) in [0,1] -> released features (N, ...)."""
        return self.transform(self.features(self.veil(images, generator=generator)), generator=generator)

    def restored(self, released: Tensor) -> Tensor:
        """What was released -> what the server's half takes."""
        return released if self.bottleneck is None else self.bottleneck.widen(released)

    def predict(self, released: Tensor) -> Tensor:
        """Server side: what was released -> logits (N, classes)."""
        return super().predict(self.restored(released))


@dataclass(frozen=True)
class Step:
    """What a criterion sees of one training step, in fp32 and with gradients.

    Attributes:
        images: (n,3,H,W) in [0,1], flipped and shifted at random.
        labels: (n,).
        features: (n, ...) what the head gave.
        released: (n, ...) what left the client.
        logits: (n, classes) what the server made of it.
    """

    images: Tensor
    labels: Tensor
    features: Tensor
    released: Tensor
    logits: Tensor


class Criterion:
    """What a training minimises: here the cross-entropy alone, as fine-tuning does."""

    def start_epoch(self) -> None:
        """Called before each pass over the private images, with the halves in eval mode."""

    def loss(self, step: Step) -> Tensor:
        """The loss () of one batch."""
        return F.cross_entropy(step.logits, step.labels)


class Training(Defense, abc.ABC):
    """A defense that learns by gradient descent on private images; subclasses say what learns, and to what end.

    The network's halves stay in eval mode: batch norm keeps its statistics and learns its scale, so that what is
    trained is what is released. Images are augmented as when the network was fitted; AdamW without weight decay,
    one cycle, gradients clipped; networks in bf16 where the device has it, criteria in fp32.
    """

    own_rate: ClassVar[float] = 1.0
    """Learning rate of what the defense adds to the network, relative to that of the halves."""

    epochs: int = Field(5, ge=1, le=1000, description="over the private images")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="peak of the one-cycle schedule, AdamW")
    batch_size: int = Field(64, ge=2, le=4096, description="images per step")

    @abc.abstractmethod
    def prepare(self, model: TrainedModel, private: LabelledImages, *, generator: torch.Generator) -> Criterion:
        """Give what the defense adds its first values, and say what is minimised."""

    def halves(self, model: TrainedModel) -> list[nn.Parameter]:
        """Parameters of the network that learn."""
        return []

    def fit(
        self,
        model: ProtectedModel,
        private: LabelledImages,
        *,
        generator: torch.Generator,
        progress: Callable[[str], None],
    ) -> None:
        """Train what learns; what does not stays as it is.

        Raises:
            DpbenchError: it diverged.
        """
        assert isinstance(model, TrainedModel)
        device = private.images.device
        progress("measuring the features")
        criterion = self.prepare(model, private, generator=generator)
        halves, within = self.halves(model), set(model.split.parameters())
        own = [parameter for parameter in model.parameters() if parameter not in within]
        rates = [(halves, self.learning_rate), (own, self.learning_rate * self.own_rate)]
        groups = [(parameters, rate) for parameters, rate in rates if parameters]
        steps = math.ceil(len(private) / private.training_batch(self.batch_size))
        optimizer = torch.optim.AdamW([{"params": parameters} for parameters, _ in groups], weight_decay=0)
        schedule = one_cycle(optimizer, [rate for _, rate in groups], steps=self.epochs * steps, rise=0.15)
        learning = [parameter for parameters, _ in groups for parameter in parameters]
        with frozen(model):
            for parameter in learning:
                parameter.requires_grad_(True)
            for epoch in range(self.epochs):
                progress(f"epoch {epoch + 1}/{self.epochs}")
                criterion.start_epoch()
                for chosen in torch.randperm(len(private), generator=generator, device=device).tensor_split(steps):
                    images = augment(private.images[chosen], generator=generator)
                    with precision(images):
                        features = model.features(model.veil(images, generator=generator))
                        released = model.transform(features, generator=generator)
                        logits = model.predict(released)
                    loss = criterion.loss(
                        Step(images, private.labels[chosen], features.float(), released.float(), logits.float())
                    )
                    optimizer.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(learning, LARGEST_GRADIENT)
                    optimizer.step()
                    schedule.step()
            optimizer.zero_grad()
        assert_finite(model, self.learning_rate)


class FineTuning(Training, abc.ABC):
    """A defense that fine-tunes head and tail: all of them from the same network, under the same budget."""

    bottleneck: int = Field(
        0, ge=0, le=4096, description="channels that are released, mapped back by the server; 0 releases all"
    )

    def build(self, split: SplitModel) -> TrainedModel:
        """The network, which `fit` trains; features of any shape."""
        return TrainedModel(split, self.bottleneck)

    def halves(self, model: TrainedModel) -> list[nn.Parameter]:
        """All of head and tail."""
        return [parameter for parameter in model.split.parameters() if parameter.is_floating_point()]

    def prepare(self, model: TrainedModel, private: LabelledImages, *, generator: torch.Generator) -> Criterion:
        """The bottleneck's first values; the criterion is the subclass's."""
        if model.bottleneck is not None:
            model.bottleneck.fit(feature_batches(model, private, generator=generator), generator)
        return self.criterion(model, private, generator=generator)

    @abc.abstractmethod
    def criterion(self, model: TrainedModel, private: LabelledImages, *, generator: torch.Generator) -> Criterion:
        """What is minimised."""
