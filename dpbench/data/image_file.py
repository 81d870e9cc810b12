"""Decoded images of a data set on disk: written as they come, read as tensors where they do not fit in memory.

`NAME.npy` holds the pixels of all parts, (N,3,S,S) uint8; `NAME.json` beside it their labels and content hashes.
Whatever is read is checked against its hash.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from dpbench.contract.images import LazyImages
from dpbench.data.division import PARTS, Decoded, Part
from dpbench.data.images import Pixels, content_hash
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError
from dpbench.machine.devices import to_device
from dpbench.machine.writing import write_atomically
from dpbench.text.hashing import content_hash as json_hash

Write = Callable[[str, int, Pixels], None]
"""`write(part, place, image)`: one decoded image (3,S,S) uint8 into its place."""

CHECKED = 256
"""Images read at once when a file is checked."""


@dataclass(frozen=True)
class ImageFile:
    """Images in a file, each checked against its hash when it is read.

    Attributes:
        path: of the pixels.
        first: place of the first image in the file.
        hashes: content hash of each of these images.
        shape: (N,3,S,S).
    """

    path: Path
    first: int
    hashes: list[str]
    shape: torch.Size

    def pixels(self, places: NDArray[np.int64]) -> Pixels:
        """The images at these places (n,) -> (n,3,S,S) uint8.

        Raises:
            DpbenchError: they are not what was written.
        """
        try:
            # mapped anew each time: pages that stay mapped would count as memory of this process
            pixels: Pixels = npy.open_memmap(self.path, mode="r")[self.first + places]
        except (OSError, ValueError, IndexError) as error:
            raise DpbenchError(f"{self.path} cannot be read any more ({error}); run again, it is made anew") from error
        if [content_hash(image) for image in pixels] != [self.hashes[place] for place in places]:
            raise DpbenchError(f"{self.path} is damaged: an image is not what was written; run again, it is made anew")
        return pixels

    def read(self, places: Tensor, device: torch.device) -> Tensor:
        """Images at places (n,) -> (n,3,S,S) float32 in [0,1], channels_last: the same numbers as in memory."""
        # moved as bytes, a quarter of the size
        floats = to_device(torch.from_numpy(self.pixels(places.numpy())), device).float()
        # by a tensor: by a number, CUDA multiplies with the reciprocal, which is not the same to the last bit
        floats /= torch.tensor(255.0, device=device)
        return floats.contiguous(memory_format=torch.channels_last)

    @property
    def images(self) -> LazyImages:
        """All of them, on the CPU, read when they are asked for."""
        return LazyImages(self.read, self.shape, torch.device("cpu"))


@dataclass(frozen=True)
class StoredSet:
    """A data set on disk: labels and hashes, and the images of each part."""

    decoded: Decoded
    files: dict[str, ImageFile]


def _firsts(spec: DatasetSpec) -> dict[str, int]:
    """Part -> place of its first image in the file; `end` -> how many there are."""
    counts = [getattr(spec, name) for name in PARTS]
    return dict(zip((*PARTS, "end"), np.cumsum([0, *counts]).tolist(), strict=True))


def write_images(path: Path, spec: DatasetSpec, fill: Callable[[Write], Decoded]) -> None:
    """Write a data set while it is decoded: no more than one image is held here.

    Args:
        path: of the pixels, `NAME.npy`.
        spec: says how many images each part has, and their size.
        fill: decodes; hands over each image, and returns what else there is to know. What it raises leaves no file.
    """
    found: list[Decoded] = []
    write_atomically(path, lambda temporary: found.append(_write_pixels(temporary, spec, fill)))
    about = {
        "classes": list(found[0].classes),
        "labels": {name: part.labels.tolist() for name, part in found[0].parts.items()},
        "hashes": {name: part.hashes for name, part in found[0].parts.items()},
    }
    text = json.dumps({"about": about, "digest": json_hash(about)})
    write_atomically(path.with_suffix(".json"), lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _write_pixels(path: Path, spec: DatasetSpec, fill: Callable[[Write], Decoded]) -> Decoded:
    firsts = _firsts(spec)
    shape = (firsts["end"], 3, spec.image_size, spec.image_size)
    # not through a memory map: on a full disk that kills the process, where a write raises an error
    with path.open("wb") as file:
        npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        start = file.tell()
        file.truncate(start + int(np.prod(shape)))

        def write(part: str, place: int, image: Pixels) -> None:
            file.seek(start + (firsts[part] + place) * image.nbytes)
            file.write(np.ascontiguousarray(image).data)

        return fill(write)


def read_images(path: Path, spec: DatasetSpec) -> StoredSet | None:
    """What was decoded before, checked whole; None where it is missing or damaged, so that it is made again."""
    firsts = _firsts(spec)
    files: dict[str, ImageFile] = {}
    parts: dict[str, Part] = {}
    try:
        stored = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        about = stored["about"]
        pixels = npy.open_memmap(path, mode="r")
        # a flipped bit would otherwise pass for a label
        classes = tuple(map(str, about["classes"]))
        if stored["digest"] != json_hash(about) or pixels.dtype != np.uint8:
            return None
        if pixels.shape != (firsts["end"], 3, spec.image_size, spec.image_size):
            return None
        for name in PARTS:
            labels, hashes = np.array(about["labels"][name], np.int64), about["hashes"][name]
            places = np.arange(getattr(spec, name))
            if not len(labels) == len(hashes) == len(places):
                return None
            parts[name] = Part(labels, hashes)
            shape = torch.Size((len(places), *pixels.shape[1:]))
            files[name] = ImageFile(path, firsts[name], hashes, shape)
            for first in range(0, len(places), CHECKED):
                files[name].pixels(places[first : first + CHECKED])
    except (DpbenchError, OSError, ValueError, KeyError, TypeError):
        return None
    return StoredSet(Decoded(parts, classes), files)
