"""How much goes into memory at once: what a device has, what follows from it, and what happens when it runs out."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil
import torch

from dpbench.errors import DpbenchError

T = TypeVar("T")

BYTES_PER_PIXEL = 1024
"""Of the device's memory that `auto` allows for each pixel of an image in a network: features, gradients, the rest."""

LARGEST_BATCH = 256
"""The most images that any built-in wants at once, apart from those that are optimised."""

SHARE = 8
"""One part in so many of the memory may hold the images of a data set, or the features of one window of a release."""

OUT_OF_MEMORY = ("not enough memory", "allocate memory", "out of memory", "ALLOC_FAILED")


def total_memory(device: torch.device) -> int:
    """Bytes that the device has, in use or not: the same at every call, so that what follows from it is too."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    return min([psutil.virtual_memory().total, *_container_limit()])


def _container_limit() -> list[int]:
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return []
    return [int(text)] if text.isascii() and text.isdigit() else []


def room(device: torch.device) -> int:
    """Bytes that one large thing may take on the device: see `SHARE`. What needs more is streamed."""
    return total_memory(device) // SHARE


def auto_batch_size(image_size: int, device: torch.device) -> int:
    """How many images may be in a network at once, from the size of the images and the device's total memory.

    As many as the built-ins want (1,024 at 32x32), fewer where the memory is small; never what happens to be free,
    so that one suite gives the same figures again on one machine.

    Args:
        image_size: side in pixels.
        device: where the networks are.

    Returns:
        At least 1.
    """
    wanted = max(LARGEST_BATCH, optimised_at_once((3, image_size, image_size)))
    allowed = total_memory(device) // (BYTES_PER_PIXEL * image_size**2)
    return wanted if allowed >= wanted else 1 << max(0, allowed.bit_length() - 1)


def parse_batch_size(text: str) -> int | None:
    """What `--batch-size` says: a number of images, or None for `auto`.

    Raises:
        DpbenchError: neither a whole number from 1 nor `auto`.
    """
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise DpbenchError(f"--batch-size {text} is not usable; expected auto or a whole number of images, 1 or more")
    return int(text)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: CUDA's, MPS's, the CPU allocator's or Python's own error."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in OUT_OF_MEMORY)


class Batches:
    """How many images go through a network at once in one cell.

    Attributes:
        batch_size: where every stage starts.
        smallest: what the tightest stage came down to.
        halved: how often memory ran out and a stage began again with half the batch.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.smallest = batch_size
        self.halved = 0

    def __call__(self, stage: Callable[[int], T]) -> T:
        """`stage(batch_size)`, from its start with half of it whenever memory runs out.

        Args:
            stage: derives its generators anew at each call, so that it gives what it would have given with the
                smaller batch from the outset.

        Raises:
            DpbenchError: memory runs out with a single image too.
        """
        size = self.batch_size
        while True:
            try:
                return stage(size)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            # here, and not above: the traceback held on to the tensors of the attempt
            release_memory()
            if size == 1:
                raise DpbenchError(
                    f"out of memory even with one image at a time ({reason}); use smaller images, a smaller backbone "
                    "or budget, or a device with more memory"
                )
            size //= 2
            self.halved += 1
            self.smallest = min(self.smallest, size)


def release_memory() -> None:
    """Give back what a failed attempt left behind."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def optimised_at_once(image_shape: tuple[int, int, int]) -> int:
    """How many images (3,H,W) are optimised at once: 1,024 at 32x32, fewer in proportion to their area, at least 1."""
    return max(1, 1024 * 32 * 32 // (image_shape[1] * image_shape[2]))


UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_size(text: str) -> int:
    """`20GB` -> bytes.

    Raises:
        DpbenchError: it is no size.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?B?)", text.strip().upper())
    if found is None or found[2] not in UNITS:
        raise DpbenchError(f"{text!r} is no size; expected a number with B, KB, MB, GB or TB, such as 20GB")
    return int(float(found[1]) * UNITS[found[2]])
