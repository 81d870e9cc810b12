"""Decoded images of a data set in one file: written as they come, read as tensors where they do not fit in memory.

The file is a safetensors file: (N,3,S,S) uint8 pixels of each part, with labels and content hashes in its header.
"""

from __future__ import annotations

import json
import operator
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from dpbench.data.division import PARTS, Decoded, Part
from dpbench.data.images import Pixels, content_hash
from dpbench.data.spec import DatasetSpec
from dpbench.machine.devices import to_device
from dpbench.text.hashing import content_hash as json_hash

Write = Callable[[str, int, Pixels], None]
"""`write(part, place, image)`: one decoded image (3,S,S) uint8 into its place."""

CHECKED = 256
"""Images read at once when a file is checked."""

DIGITS = 24
"""Bytes of a file's header at most for one image: its hash, its label and what separates them."""


class ImageFile:
    """Images in a file, looked at as a tensor (N,3,S,S) float32 in [0,1]: see `dpbench.contract.images.Images`.

    Nothing is held: what an index or a slice asks for is read, moved to the device as bytes and converted there, to
    the same numbers as in memory, in channels_last.

    Args:
        source: of the file.
        start: byte of the first image.
        shape: (N,3,S,S).
        device: where what is read comes to lie.
    """

    def __init__(self, source: Source, start: int, shape: tuple[int, ...], device: torch.device) -> None:
        self.shape = torch.Size(shape)
        self.device = device
        self._source = source
        self._start = start
        self._image_bytes = shape[1] * shape[2] * shape[3]

    def __len__(self) -> int:
        return self.shape[0]

    def pixels(self, first: int, count: int) -> Pixels:
        """(count,3,S,S) uint8 from place `first` on."""
        pixels = np.empty((count, *self.shape[1:]), np.uint8)
        self._source.read(self._start + first * self._image_bytes, pixels.reshape(-1).data)
        return pixels

    def __getitem__(self, index: Any, /) -> Tensor:
        """The images at a slice or an integer tensor (n,) -> (n,3,S,S); at a number -> (3,S,S)."""
        if isinstance(index, slice):
            first, stop, step = index.indices(len(self))
            if step == 1:
                return self._floats(self.pixels(first, max(0, stop - first)))
            places = list(range(first, stop, step))
        elif isinstance(index, Tensor) and index.dim() == 1 and not index.is_floating_point():
            places = (index.nonzero().flatten() if index.dtype == torch.bool else index).tolist()
        else:
            return self[torch.tensor([operator.index(index)])][0]
        pixels = np.empty((len(places), *self.shape[1:]), np.uint8)
        for image, place in zip(pixels, places, strict=True):
            if not -len(self) <= place < len(self):
                raise IndexError(f"image {place} of {len(self)}")
            self._source.read(self._start + place % len(self) * self._image_bytes, image.reshape(-1).data)
        return self._floats(pixels)

    def _floats(self, pixels: Pixels) -> Tensor:
        floats = to_device(torch.from_numpy(pixels), self.device).float()
        # by a tensor: by a number, CUDA multiplies with the reciprocal, which is not the same to the last bit
        floats /= torch.tensor(255.0, device=self.device)
        return floats.contiguous(memory_format=torch.channels_last)

    def narrow(self, dim: int, start: int, length: int) -> ImageFile:
        """`length` images from `start` on; none is read."""
        if dim != 0 or not 0 <= start <= start + length <= len(self):
            raise IndexError(f"narrow({dim}, {start}, {length}) of {tuple(self.shape)}")
        first = self._start + start * self._image_bytes
        return ImageFile(self._source, first, (length, *self.shape[1:]), self.device)

    def split(self, split_size: int, /) -> Iterator[Tensor]:
        """All images, at most `split_size` at once."""
        for first in range(0, len(self), split_size):
            yield self[first : first + split_size]

    def to(self, device: torch.device, /) -> ImageFile:
        """The same images, for another device."""
        return ImageFile(self._source, self._start, tuple(self.shape), device)


class Source:
    """A file that stays open while images of it are in use, so that replacing it does no harm."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._lock = threading.Lock()

    def read(self, start: int, into: memoryview) -> None:
        """Fill `into` from byte `start` on."""
        with self._lock:
            self._file.seek(start)
            done = 0
            while done < len(into):
                count = self._file.readinto(into[done:])
                if not count:
                    raise OSError(f"{self._file.name} ended at byte {start + done}")
                done += count

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


@dataclass(frozen=True)
class Stored:
    """An image file, opened: its labels and hashes, and its images by part, on the CPU."""

    decoded: Decoded
    images: dict[str, ImageFile]


def _shapes(spec: DatasetSpec) -> dict[str, tuple[int, int, int, int]]:
    return {name: (getattr(spec, name), 3, spec.image_size, spec.image_size) for name in PARTS}


def write_images(path: Path, spec: DatasetSpec, classes: tuple[str, ...], fill: Callable[[Write], Decoded]) -> None:
    """Write a data set while it is decoded: no more than one image is held here.

    Args:
        path: a new file.
        spec: says how many images each part has, and their size.
        classes: names of the labels.
        fill: decodes; hands over each image, and returns what else there is to know.
    """
    shapes = _shapes(spec)
    images = sum(shape[0] for shape in shapes.values())
    # an upper bound: the header comes first, and what is in it is known last
    room = 2048 + images * (DIGITS + len(str(len(classes)))) + 2 * len(json.dumps(json.dumps(list(classes))))
    begins = {}
    at = 8 + room + -room % 8
    for name, shape in shapes.items():
        begins[name] = at
        at += int(np.prod(shape))
    with path.open("wb") as file:
        file.truncate(at)

        def write(part: str, place: int, image: Pixels) -> None:
            file.seek(begins[part] + place * image.nbytes)
            file.write(np.ascontiguousarray(image).data)

        _write_header(file, fill(write), shapes, begins)


def _write_header(
    file: BinaryIO, decoded: Decoded, shapes: Mapping[str, tuple[int, ...]], begins: Mapping[str, int]
) -> None:
    about = {
        "classes": list(decoded.classes),
        "labels": {name: part.labels.tolist() for name, part in decoded.parts.items()},
        "hashes": {name: part.hashes for name, part in decoded.parts.items()},
    }
    header: dict[str, Any] = {"__metadata__": {"about": json.dumps(about), "digest": json_hash(about)}}
    base = min(begins.values())
    for name, shape in shapes.items():
        begin = begins[name] - base
        header[name] = {"dtype": "U8", "shape": list(shape), "data_offsets": [begin, begin + int(np.prod(shape))]}
    text = json.dumps(header, separators=(",", ":")).encode()
    if len(text) > base - 8:
        raise ValueError(f"a header of {len(text)} bytes in the room of {base - 8}")
    file.seek(0)
    file.write(struct.pack("<Q", base - 8) + text.ljust(base - 8))


def read_images(path: Path, spec: DatasetSpec) -> Stored | None:
    """What was decoded before, checked whole; None where it is missing or damaged, so that it is made again."""
    if not path.is_file():
        return None
    try:
        source = Source(path)
        prefix = bytearray(8)
        source.read(0, memoryview(prefix))
        (length,) = struct.unpack("<Q", prefix)
        if length > path.stat().st_size:
            return None
        text = bytearray(length)
        source.read(8, memoryview(text))
        header = json.loads(text)
        about = json.loads(header["__metadata__"]["about"])
        # a flipped bit would otherwise pass for an image or a label
        if header["__metadata__"]["digest"] != json_hash(about):
            return None
        images, parts = {}, {}
        for name, shape in _shapes(spec).items():
            begin, end = header[name]["data_offsets"]
            if header[name]["dtype"] != "U8" or tuple(header[name]["shape"]) != shape or end - begin != np.prod(shape):
                return None
            images[name] = ImageFile(source, 8 + length + begin, shape, torch.device("cpu"))
            parts[name] = Part(np.array(about["labels"][name], np.int64), about["hashes"][name])
            if list(_hashes(images[name])) != parts[name].hashes:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Stored(Decoded(parts, tuple(about["classes"])), images)


def _hashes(images: ImageFile) -> Iterator[str]:
    for first in range(0, len(images), CHECKED):
        for image in images.pixels(first, min(CHECKED, len(images) - first)):
            yield content_hash(image)
