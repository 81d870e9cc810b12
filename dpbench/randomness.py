"""Every random draw comes from a generator derived from what it is for, never from a global seed.

Two stages never share a stream, so that adding a cell to a suite changes no other cell.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from any printable parts, the same on every platform."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def derive_generator(device: torch.device, *parts: object) -> torch.Generator:
    """A generator on `device`, seeded from `parts`."""
    return torch.Generator(device).manual_seed(derive_seed(*parts))
