"""What defenses ask of a split network: which device it is on, and what shape its features have."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from dpbench.contract.defense import SplitModel


def device_of(module: nn.Module) -> torch.device:
    """Where the module's tensors lie; the CPU where it has none."""
    tensor = next(itertools.chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def feature_shape(split: SplitModel) -> tuple[int, ...]:
    """The shape of one image's features, found by sending a blank image through the head."""
    blank = torch.zeros(1, *split.image_shape, device=device_of(split))
    with torch.no_grad():
        return tuple(split.client_head(blank).shape[1:])
