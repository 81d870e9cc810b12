"""What a defense is: it changes what the client of a split network releases."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dpbench.contract.images import LabelledImages
from dpbench.contract.plugin import Plugin


class SplitModel(nn.Module):
    """A backbone cut in two at a named module: `server_tail(client_head(x))` equals the unsplit model.

        >>> head = torch.nn.Conv2d(3, 4, 3, padding=1)
        >>> tail = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4 * 16 * 16, 10))
        >>> split = dpbench.SplitModel(head, tail, split_point="conv", image_shape=(3, 16, 16), classes=10)
        >>> split(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 10])

    Args:
        client_head: images (N,3,H,W) in [0,1] -> smashed data; normalisation is inside.
        server_tail: smashed data -> logits (N, classes).
        split_point: the module of the backbone whose output leaves the client.
        image_shape: (3, H, W) of the images the backbone takes.
        classes: number of logits.
        packed: where several feature tensors are released as one, their shapes: rows of an image (1, or the number of
            its windows), then the rest. Empty for a single tensor.
    """

    def __init__(
        self,
        client_head: nn.Module,
        server_tail: nn.Module,
        *,
        split_point: str,
        image_shape: tuple[int, int, int],
        classes: int,
        packed: tuple[tuple[int, ...], ...] = (),
    ) -> None:
        super().__init__()
        self.client_head = client_head
        self.server_tail = server_tail
        self.split_point = split_point
        self.image_shape = image_shape
        self.classes = classes
        self.packed = packed

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,3,H,W) in [0,1] -> logits (N, classes)."""
        logits: Tensor = self.server_tail(self.client_head(images))
        return logits


@dataclass(frozen=True)
class AdditiveNoise:
    """Noise that a release adds to every value of `ProtectedModel.location`, independently.

        >>> dpbench.AdditiveNoise("laplace", scale=0.5)
        AdditiveNoise(distribution='laplace', scale=0.5, clip_norm=None)

    Attributes:
        distribution: gaussian or laplace.
        scale: standard deviation of gaussian, b of laplace noise, in the units of the released features.
        clip_norm: the L2 norm that `location` never exceeds, if the defense clips it.
    """

    distribution: Literal["gaussian", "laplace"]
    scale: float
    clip_norm: float | None = None


class ProtectedModel(nn.Module):
    """A split model whose released features went through a defense.

    Most defenses only override `transform`. One that fine-tunes head or tail does so in `Defense.fit`; one that
    acts on pixels overrides `release`. Everything that `Defense.fit` learns must be a parameter or a buffer:
    the fitted state is cached as this module's `state_dict`. With `split` as in `SplitModel`:

        >>> class Halved(dpbench.ProtectedModel):
        ...     def transform(self, features, *, generator=None):
        ...         return features / 2
        >>> Halved(split).release(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 4, 16, 16])

    Args:
        split: the two halves, as the backbone left them.
    """

    def __init__(self, split: SplitModel) -> None:
        super().__init__()
        self.split = split

    def features(self, images: Tensor) -> Tensor:
        """The smashed data before the defense: (N,3,H,W) in [0,1] -> features of any shape (N, ...)."""
        smashed: Tensor = self.split.client_head(images)
        return smashed

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """What the defense does to the features; same shape, dtype and device as it was given.

        It may return integers instead (bool, or of 8 to 64 bits); `predict` then receives just these.
        """
        return features

    def release(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Client side: images (N,3,H,W) in [0,1] -> released features (N, ...)."""
        return self.transform(self.features(images), generator=generator)

    def quantisation(self) -> tuple[float, float]:
        """`(scale, zero_point)`: a released integer q means scale * (q - zero_point), which is what attackers read.

        Means something where `release` gives integers; whatever `fit` learns of it belongs in buffers.
        """
        return 1.0, 0.0

    def is_sparse(self) -> bool:
        """Whether only values that are not zero are sent, and which these are: what a release costs rests on it."""
        return False

    def location(self, images: Tensor) -> Tensor:
        """What the release is without its noise, differentiable; means something where `noise` is not None."""
        return self.features(images)

    def noise(self) -> AdditiveNoise | None:
        """The noise that is added to `location`; None where the release is anything else. Guarantees rest on it."""
        return None

    def predict(self, released: Tensor) -> Tensor:
        """Server side: released features, as they were sent -> logits (N, classes)."""
        if not released.is_floating_point():
            scale, zero_point = self.quantisation()
            released = (released.float() - zero_point) * scale
        logits: Tensor = self.split.server_tail(released)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Images -> logits through the defense."""
        return self.predict(self.release(images))


class Defense(Plugin, abc.ABC):
    """A way to release features that should keep the task and hide the image.

    With `split` as in `SplitModel`:

    >>> class Signs(dpbench.Defense):
    ...     name = "signs"
    ...     size: float = 1.0
    ...
    ...     def build(self, split):
    ...         size = self.size
    ...
    ...         class Model(dpbench.ProtectedModel):
    ...             def transform(self, features, *, generator=None):
    ...                 return size * features.sign()
    ...
    ...         return Model(split)
    >>> float(Signs(size=2.0).build(split).release(torch.rand(2, 3, 16, 16)).abs().max().detach())
    2.0
    """

    trained_on: ClassVar[tuple[str, ...]] = ()
    """Metrics (such as `ssim`) that `fit` optimises against: never the only one that judges this defense."""

    only_in: ClassVar[str] = ""
    """Name of the only protocol in which it means something, such as `inference`; empty: of any."""

    @abc.abstractmethod
    def build(self, split: SplitModel) -> ProtectedModel:
        """The protected model, not yet fitted. Must not touch data or draw random numbers that matter."""

    def fit(
        self,
        model: ProtectedModel,
        private: LabelledImages,
        *,
        generator: torch.Generator,
        progress: Callable[[str], None],
    ) -> None:
        """Calibrate or train `model` in place on the defender's private images (default: nothing to fit).

        A defense that can do without private images has a parameter `fit_on`: where it is "public", the protocol
        `sharing`, which knows public images, gives those as `private`. Protocols that know none refuse it.

        Args:
            model: what `build` returned, on its device, in eval mode.
            private: the defender's training images, on the same device.
            generator: the only source of randomness, on the same device.
            progress: shows a short text such as "epoch 2/5" in the live display.
        """
        return None
