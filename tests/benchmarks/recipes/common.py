"""What several recipes share. Everything else is written out in each file, as its paper has it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dpbench.contract.attack import Observation


def squared_total_variation(images: Tensor) -> Tensor:
    """TV with beta = 2: mean squared difference of neighbouring pixels, (N,C,H,W) -> ()."""
    down = (images[:, :, 1:] - images[:, :, :-1]).square().mean()
    right = (images[:, :, :, 1:] - images[:, :, :, :-1]).square().mean()
    return down + right


def one_at_a_time(seen: Observation, invert: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply `invert`, (1, ...) released features -> (1,3,H,W), to one victim after the other: (N,3,H,W) in [0,1]."""
    return torch.cat([invert(released).detach().float().clamp(0, 1) for released in seen.released.float().split(1)])


def seed_of(generator: torch.Generator) -> int:
    """A seed for torch's default initialisation, which reads the global generator."""
    return int(torch.randint(2**62, (), generator=generator))
