"""Images as attacks and defenses receive them: a tensor, or a file that reads as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


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
