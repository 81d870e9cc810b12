"""Networks split in every layout, private pictures for them, and quick defenses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpbench.contract.defense import Defense, ProtectedModel, SplitModel
from dpbench.contract.images import LabelledImages
from dpbench.plugins.configuring import configure
from dpbench.plugins.registry import defenses

CLASSES = 4


SHAPE = (3, 16, 16)


NAMES = sorted(defenses())


STOCHASTIC = {"gaussian", "laplace", "clipped-gaussian", "dropout", "token-shuffle", "token-drop", "resynthesis"}


STOCHASTIC |= {"shredder", "vib", "cem", "cloak"}


ADDITIVE = {"gaussian": "gaussian", "laplace": "laplace", "clipped-gaussian": "gaussian", "cem": "gaussian"}
"""Defenses that state their noise, and its distribution."""


SHORT = {"epochs": 1, "blocks": 1, "pool": 2, "batch_size": 16}


TUNED = {"fine-tuned", "nopeek", "adversarial", "vib", "cem", "siamese", "siftfunnel"}
"""Defenses that change head and tail."""


FAST: dict[str, dict[str, Any]] = {
    "dpm": SHORT,
    "dpm-equivalent": SHORT,
    "resynthesis": {"epochs": 1, "batch_size": 16},
    "waist": {"epochs": 1, "batch_size": 16, "values": 6},
    **{name: {"epochs": 2} for name in (*TUNED, "shredder", "cloak", "disco")},
}


class Normalise(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return (images - 0.5) / 0.25


class Tokens(nn.Module):
    """Patches of 4x4 as tokens, a class token in front."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 24, 4, stride=4)
        self.first = nn.Parameter(torch.randn(1, 1, 24))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch(images).flatten(2).transpose(1, 2)
        return torch.cat([self.first.expand(len(patches), -1, -1), patches], dim=1)


class ClassToken(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(1)


def conv_split() -> SplitModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Sequential(Normalise(), nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        tail = nn.Sequential(
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(128, CLASSES),
        )
    return SplitModel(head, tail, split_point="conv", image_shape=SHAPE, classes=CLASSES).eval()


def token_split() -> SplitModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Sequential(Normalise(), Tokens())
        tail = nn.Sequential(ClassToken(), nn.LayerNorm(24), nn.Linear(24, CLASSES))
    return SplitModel(head, tail, split_point="tokens", image_shape=SHAPE, classes=CLASSES).eval()


class ToChannelsLast(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.permute(0, 2, 3, 1)


class ToMaps(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.permute(0, 3, 1, 2)


def channels_last_split() -> SplitModel:
    maps = conv_split()
    head = nn.Sequential(maps.client_head, ToChannelsLast())
    tail = nn.Sequential(ToMaps(), maps.server_tail)
    return SplitModel(head, tail, split_point="channels last", image_shape=SHAPE, classes=CLASSES).eval()


def flat_split() -> SplitModel:
    maps = conv_split()
    shape = maps.client_head(torch.zeros(1, *SHAPE)).shape[1:]
    head = nn.Sequential(maps.client_head, nn.Flatten())
    tail = nn.Sequential(nn.Unflatten(1, shape), maps.server_tail)
    return SplitModel(head, tail, split_point="flat", image_shape=SHAPE, classes=CLASSES).eval()


SPLITS: dict[str, Callable[[], SplitModel]] = {
    "conv": conv_split,
    "tokens": token_split,
    "channels last": channels_last_split,
    "flat": flat_split,
}


def pictures(n: int, seed: int = 0) -> LabelledImages:
    """A bright square on a smooth background; its quadrant is the class."""
    g = torch.Generator().manual_seed(seed)
    background = F.interpolate(torch.rand(n, 3, 4, 4, generator=g), SHAPE[1:], mode="bilinear") * 0.7
    labels = torch.randint(CLASSES, (n,), generator=g)
    for image, label in zip(background, labels.tolist(), strict=True):
        top, left = 2 + 8 * (label // 2), 2 + 8 * (label % 2)
        image[:, top : top + 4, left : left + 4] = 1.0
    return LabelledImages(background, labels)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(name: str, **arguments: object) -> Defense:
    return configure(defenses()[name], {**FAST.get(name, {}), **arguments})


def fitted(defense: Defense, split: SplitModel, private: LabelledImages | None = None, seed: int = 0) -> ProtectedModel:
    model = defense.build(split).eval()
    data = pictures(64) if private is None else private
    defense.fit(model, data, generator=generator(seed), progress=lambda text: None)
    return model


@torch.no_grad()
def released(model: ProtectedModel, n: int = 8, seed: int = 7) -> Tensor:
    return model.release(pictures(n, seed=99).images, generator=generator(seed))


def state(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def assert_same_state(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for key in left:
        assert torch.equal(left[key], right[key]), key
