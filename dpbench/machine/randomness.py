"""Every random draw comes from a generator derived from what it is for, never from a global seed.

Two stages never share a stream, so that adding a cell to a suite changes no other cell.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from any printable parts, the same on every platform."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def draw_weight(weight: Tensor, draw: Callable[..., Tensor], generator: torch.Generator, **options: Any) -> None:
    """Fill a weight by one of `torch.nn.init`'s functions, drawn where the generator lives, wherever the weight does.

    Args:
        weight: of a layer; overwritten.
        draw: such as `nn.init.kaiming_normal_`.
        generator: on any device.
        options: of `draw`.
    """
    weight.data.copy_(draw(torch.empty_like(weight, device=generator.device), generator=generator, **options))


def derive_generator(device: torch.device, *parts: object) -> torch.Generator:
    """A generator on `device`, seeded from `parts`."""
    return torch.Generator(device).manual_seed(derive_seed(*parts))


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """For library code that draws from torch's global generator (layer initialisation, dropout).

    The global state is as it was afterwards, so nothing outside notices.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
