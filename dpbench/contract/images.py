"""Images as attacks and defenses receive them: a tensor, or a file that reads as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dpbench.errors import DpbenchError


class Images(Protocol):
    """(N,3,H,W) float images in [0,1]: a tensor, or, where they do not fit in memory, a file that reads as one.

    Index or split them; whatever comes out is a tensor.
    """

    @property
    def shape(self) -> torch.Size:
        """(N, 3, H, W)."""

    @property
    def device(self) -> torch.device:
        """Where the images that are read come to lie."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Tensor:
        """The images at a slice or an int64 tensor (n,) -> (n,3,H,W); at a number -> (3,H,W)."""

    def narrow(self, dim: int, start: int, length: int) -> Images:
        """The images from `start`, as many as `length`; none is read. `dim` is 0."""

    def split(self, split_size: int, /) -> Iterable[Tensor]:
        """All of them, at most `split_size` at once."""

    def to(self, device: torch.device, /) -> Images:
        """The same, on another device."""


class LazyImages:
    """Images that are read when they are asked for, and not kept: see `Images`.

    Args:
        read: places (n,) int64 and a device -> the images there, (n,3,H,W) float in [0,1] on the device.
        shape: (N,3,H,W).
        device: where what is read comes to lie.
        first: place of the first of these images.
    """

    def __init__(
        self, read: Callable[[Tensor, torch.device], Tensor], shape: Sequence[int], device: torch.device, first: int = 0
    ) -> None:
        self.shape = torch.Size(shape)
        self.device = device
        self._read = read
        self._first = first

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any, /) -> Tensor:
        """See `Images`."""
        # numpy knows negative steps, and says which place is out of range
        chosen = np.arange(len(self))[index.numpy(force=True) if isinstance(index, Tensor) else index]
        places = torch.from_numpy(np.atleast_1d(chosen).copy())
        images = self._read(places + self._first, self.device)
        return images if np.ndim(chosen) else images[0]

    def narrow(self, dim: int, start: int, length: int) -> LazyImages:
        """See `Images`."""
        if dim != 0 or not 0 <= start <= start + length <= len(self):
            raise IndexError(f"narrow({dim}, {start}, {length}) of {tuple(self.shape)}")
        return LazyImages(self._read, (length, *self.shape[1:]), self.device, self._first + start)

    def split(self, split_size: int, /) -> Iterator[Tensor]:
        """See `Images`."""
        for start in range(0, len(self), split_size):
            yield self[start : start + split_size]

    def to(self, device: torch.device, /) -> LazyImages:
        """See `Images`."""
        return LazyImages(self._read, self.shape, device, self._first)


@dataclass(frozen=True)
class LabelledImages:
    """Images and their class indices.

        >>> dpbench.LabelledImages(torch.rand(8, 3, 16, 16), torch.arange(8), batch_size=4).training_batch(64)
        4

    Attributes:
        images: (N,3,H,W) float in [0,1], see `Images`.
        labels: (N,) int64.
        batch_size: put at most so many of them through a network at once: a plug-in that trains has a batch size of
            its own and takes the smaller one. Smaller numbers follow where memory ran out.
    """

    images: Images
    labels: Tensor
    batch_size: int = 1024

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> LabelledImages:
        """The same images on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def at_most(self, batch_size: int) -> LabelledImages:
        """The same images, for networks that take at most `batch_size` at once."""
        return replace(self, batch_size=batch_size)

    def training_batch(self, wanted: int) -> int:
        """Images per training step: `wanted` or `batch_size`, whichever is less; at least 2, for batch norm."""
        return max(2, min(wanted, self.batch_size))


MOST_FRAMES = 8
SIDE = 64
"""Pixels of the longer side of a frame: an image that an attack shows while it runs."""


def keep_frame(frames: dict[int, Tensor], step: int, image: Any) -> None:
    """Add an image to those kept, in small; of too many every second one goes.

    Args:
        frames: step -> image (3,h,w) in [0,1] on the CPU.
        step: of the loop.
        image: (3,H,W) or (N,3,H,W), of which the first is taken.

    Raises:
        DpbenchError: another shape.
    """
    shape = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
    if not isinstance(image, Tensor) or image.ndim not in (3, 4) or image.shape[-3] != 3 or not image.numel():
        raise DpbenchError(f"log(image={shape}): expected a tensor (3,H,W) or (N,3,H,W) of values in [0,1]")
    first = (image if image.ndim == 3 else image[0]).detach().float().cpu()
    scale = min(1.0, SIDE / max(first.shape[1:]))
    if scale < 1:
        size = [max(1, round(side * scale)) for side in first.shape[1:]]
        first = functional.interpolate(first[None], size=size, mode="area")[0]
    frames[int(step)] = torch.nan_to_num(first).clamp(0, 1)
    if len(frames) > MOST_FRAMES:
        for old in sorted(frames)[1:-1:2]:
            del frames[old]


def checked_frames(given: dict[int, Tensor]) -> dict[int, Tensor]:
    """What came from another process, as far as it is what `keep_frame` keeps; nobody vouches for the rest."""
    found: dict[int, Tensor] = {}
    for step in sorted(given)[:MOST_FRAMES]:
        frame = given[step]
        if frame.ndim == 3 and frame.shape[0] == 3 and frame.numel() and max(frame.shape) <= SIDE:
            keep_frame(found, step, frame)
    return found
