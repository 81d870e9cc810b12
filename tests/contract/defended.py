"""The tiny network behind a fitted defense."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from dpbench.contract.defense import ProtectedModel
from dpbench.plugins.configuring import configure
from dpbench.plugins.registry import find_defense
from dpbench.service import fitting
from dpbench.testing.tiny import CHANNELS, CPU, TinyNetwork, pictures, smooth

VALUES = CHANNELS * 8 * 8


@functools.cache
def defended(name: str, layout: str = "maps", **arguments: float | str) -> ProtectedModel:
    """The tiny network behind a fitted defense."""
    _, model = fitting.fit(
        TinyNetwork(layout),
        lambda: configure(find_defense(name), dict(arguments)),
        pictures(64, seed="private"),
        CPU,
        lambda text: None,
    )
    return model


def features(layout: str = "maps", count: int = 8) -> Tensor:
    return defended("none", layout).release(smooth(count, seed="features"))


def transformed(name: str, given: Tensor, layout: str = "maps", seed: int = 0, **arguments: float | str) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return defended(name, layout, **arguments).transform(given, generator=generator)
