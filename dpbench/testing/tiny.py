"""A tiny network, cut so that features have any layout, and tiny pictures: made on the spot, the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpbench.contract.defense import SplitModel
from dpbench.contract.images import LabelledImages
from dpbench.machine.randomness import derive_generator, derive_seed, seeded

CPU = torch.device("cpu")
SHAPE = (3, 16, 16)
CLASSES = 4
CHANNELS = 12


def smooth(count: int, *, seed: str, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """Blurred noise: (count, *shape) in [0,1]."""
    coarse = torch.rand(count, 3, 4, 4, generator=derive_generator(CPU, seed))
    return F.interpolate(coarse, shape[1:], mode="bicubic").clamp(0, 1)


def pictures(count: int, *, seed: str) -> LabelledImages:
    """A bright square on a smooth background; its quadrant is the class."""
    images = smooth(count, seed=seed) * 0.7
    labels = torch.randint(CLASSES, (count,), generator=derive_generator(CPU, seed, "labels"))
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = 2 + 8 * (label // 2), 2 + 8 * (label % 2)
        image[:, top : top + 4, left : left + 4] = 1.0
    return LabelledImages(images, labels)


class Maps(nn.Module):
    """Images (N,3,H,W) -> maps (N,12,H/2,W/2) that hold all of them: an orthogonal convolution, a leaky ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CHANNELS, 2, stride=2)
        self.norm = nn.BatchNorm2d(CHANNELS)
        nn.init.orthogonal_(self.conv.weight.data.view(CHANNELS, 12), generator=derive_generator(CPU, "tiny head"))
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(N,3,H,W) -> (N,12,H/2,W/2)."""
        return F.leaky_relu(self.norm(self.conv(images * 2 - 1)), 0.5)


class Tokens(nn.Module):
    """Maps (N,C,H,W) -> their positions as tokens, a class token in front: (N,1+HW,C)."""

    def forward(self, maps: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,1+HW,C)."""
        tokens = maps.flatten(2).transpose(1, 2)
        return torch.cat([tokens.mean(1, keepdim=True), tokens], 1)


class Permuted(nn.Module):
    """Another order of the dimensions."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, features: Tensor) -> Tensor:
        """(N, ...) -> (N, ...)."""
        return features.permute(self.dims)


class MeanToken(nn.Module):
    """(N,L,C) -> (N,C)."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(N,L,C) -> (N,C)."""
        return tokens.mean(1)


def _classifier() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(CHANNELS, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, CLASSES),
    )


def _maps(shape: tuple[int, int, int]) -> tuple[nn.Module, nn.Module]:
    return Maps(), _classifier()


def _tokens(shape: tuple[int, int, int]) -> tuple[nn.Module, nn.Module]:
    tail = nn.Sequential(MeanToken(), nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, CLASSES))
    return nn.Sequential(Maps(), Tokens()), tail


def _channels_last(shape: tuple[int, int, int]) -> tuple[nn.Module, nn.Module]:
    return nn.Sequential(Maps(), Permuted(0, 2, 3, 1)), nn.Sequential(Permuted(0, 3, 1, 2), _classifier())


def _flat(shape: tuple[int, int, int]) -> tuple[nn.Module, nn.Module]:
    maps = (CHANNELS, shape[1] // 2, shape[2] // 2)
    return nn.Sequential(Maps(), nn.Flatten()), nn.Sequential(nn.Unflatten(1, maps), _classifier())


LAYOUTS: dict[str, Callable[[tuple[int, int, int]], tuple[nn.Module, nn.Module]]] = {
    "maps": _maps,
    "tokens": _tokens,
    "channels last": _channels_last,
    "flat": _flat,
}
"""Layout of the features -> the two halves of a network whose features have it, for images of a shape."""


@dataclass(frozen=True)
class TinyNetwork:
    """What makes the tiny network again and again, as `dpbench.service.fitting` asks for it.

    Attributes:
        layout: one of `LAYOUTS`.
        shape: of the images.
    """

    layout: str = "maps"
    shape: tuple[int, int, int] = SHAPE

    @property
    def key(self) -> str:
        """Randomness is derived from it."""
        return f"tiny {self.layout} {self.shape}"

    def split(self) -> SplitModel:
        """The undefended network, frozen, in eval mode; the same weights each time."""
        with seeded(derive_seed("tiny network"), CPU):
            head, tail = LAYOUTS[self.layout](self.shape)
        split = SplitModel(head, tail, split_point=self.layout, image_shape=self.shape, classes=CLASSES)
        return split.eval().requires_grad_(False)
