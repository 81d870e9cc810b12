"""Releases of integers, as devices send them: which types may leave a client, and what one step of them means."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dpbench.contract.defense import ProtectedModel
from dpbench.errors import DpbenchError
from dpbench.machine.devices import exact

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool)
"""Types of released features: what torch can compare, sort and index, which its other types it cannot."""

EXACT = 1 << 24
"""Attackers read float32, which holds whole numbers up to here: beyond, they would see less than the server does."""

AT_ONCE = 256
"""Images whose integers are converted at once."""


def expected_types() -> str:
    """The types of released features, for a message."""
    names = [str(dtype).removeprefix("torch.") for dtype in (*FLOATS, *INTEGERS)]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def bits_of(dtype: torch.dtype) -> int:
    """Bits of one value as it is sent."""
    return 1 if dtype == torch.bool else 8 * dtype.itemsize


def quantisation_of(model: ProtectedModel) -> tuple[float, float]:
    """What the integers that a client releases mean: scale and zero point.

    Raises:
        DpbenchError: no two finite numbers, or a scale of 0 or less.
    """
    stated = model.quantisation()
    try:
        scale, zero_point = (float(value) for value in stated)
    except (TypeError, ValueError) as error:
        raise DpbenchError(f"the defense's quantisation() gave {stated!r}; expected (scale, zero_point)") from error
    if not (math.isfinite(scale) and scale > 0 and math.isfinite(zero_point)):
        raise DpbenchError(
            f"the defense's quantisation() gave the scale {scale} and the zero point {zero_point}; expected finite "
            "numbers and a scale above 0"
        )
    return scale, zero_point


def dequantised(released: Tensor, scale: float, zero_point: float) -> Tensor:
    """What a release (N, ...) means: integers as float32 `scale * (q - zero_point)`, floats as they are.

    Raises:
        DpbenchError: integers so far from their zero point that float32 does not tell them apart.
    """
    if released.is_floating_point():
        return released
    return scaled(
        released,
        scale,
        zero_point,
        lambda furthest: DpbenchError(
            f"the defense released integers up to {furthest:.0f} steps from their zero point; expected at most "
            f"{EXACT}: attackers read float32, and must see what the server sees"
        ),
    )


def scaled(
    released: Tensor,
    scale: float | Tensor,
    zero_point: float | Tensor,
    too_far: Callable[[float], DpbenchError],
) -> Tensor:
    """Integers (N, ...) as float32 `scale * (q - zero_point)`.

    Args:
        released: of any integer type.
        scale: one number, or some that broadcast against an image's integers.
        zero_point: likewise.
        too_far: what to raise where float32 does not tell integers apart, given how far the furthest is.
    """
    meant = torch.empty(released.shape, device=released.device)
    # a few images at once: in float64 all of them might not fit
    for integers, into in zip(released.split(AT_ONCE), meant.split(AT_ONCE), strict=True):
        steps = exact(integers) - zero_point
        if (furthest := float(steps.abs().max())) > EXACT:
            raise too_far(furthest)
        into.copy_(steps * scale)
    return meant


def as_sent(features: Tensor, dtype: torch.dtype, scale: float, zero_point: float) -> Tensor:
    """The integers of `dtype` that `dequantised` turned into these features (N, ...); floats as they are."""
    if dtype.is_floating_point:
        return features
    return (exact(features) / scale + zero_point).round().to(dtype)


def understood(model: ProtectedModel, released: Tensor) -> Tensor:
    """A release (N, ...) of this client as attackers read it, see `dequantised`."""
    return released if released.is_floating_point() else dequantised(released, *quantisation_of(model))
