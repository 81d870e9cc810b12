"""Images that somebody holds: a folder, or labelled images in memory, as a data set that the engine can divide."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dpbench.contract.dataset import Drawn, ImageSet, PartName
from dpbench.data.folders import ClassFolders
from dpbench.data.images import content_hash, to_rgb
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError
from dpbench.plugins import registry, sources

MOST = {"private": 4000, "auxiliary": 2000, "test": 500}
"""Images of each part, where there are enough."""

SHARES = {"private": 0.5, "auxiliary": 0.3, "test": 0.2}
"""Of fewer images, how they are divided."""

LARGEST_LABEL = 99_999


@dataclass(frozen=True)
class Sizes:
    """How many images there are, and the side to which they are brought, in pixels.

    Attributes:
        count: all that differ, or where some are there to test on, those to train on.
        side: in pixels.
        to_test: those to test on; 0 where these are drawn from all.
    """

    count: int
    side: int
    to_test: int = 0

    def spec(self, name: str, victims: int) -> DatasetSpec:
        """The data set, divided."""
        shares = {part: share / (1 - SHARES["test"] * bool(self.to_test)) for part, share in SHARES.items()}
        held = {part: int(round(share * self.count, 6)) for part, share in shares.items()}  # 0.3 / 0.8 * 8 is 2.99...
        if self.to_test:
            held["test"] = self.to_test
        parts = {part: max(1, min(MOST[part], count)) for part, count in held.items()}
        if parts["test"] < victims:
            raise DpbenchError(
                f"{self.count + self.to_test} different images leave {parts['test']} to test on, fewer than "
                f"victims={victims}; give more images or fewer victims"
            )
        return DatasetSpec(name=name, image_size=self.side, **parts)


@contextmanager
def given_images(given: Any, *, victims: int, image_size: int | None) -> Iterator[DatasetSpec]:
    """The data set that is meant, known to the engine while the block runs.

    Args:
        given: the name of a data set (`leaves`, `torch/...`), a folder of class folders, a pair of images (N,3,S,S) in
            [0,1] or uint8 and labels (N,), or a data set of PyTorch whose items are an image and a label.
        victims: test images that are needed.
        image_size: side in pixels; by default 32, of images in memory their own.

    Raises:
        DpbenchError: none of these, or too few images.
    """
    if isinstance(given, str | Path):
        name = str(given)
        side = image_size or 32
        if Path(name).expanduser().is_dir():
            found = ClassFolders.look_into(DatasetSpec(name=name, image_size=side, private=1, auxiliary=1, test=1))
            to_train, to_test = found.different()
            yield Sizes(to_train, side, to_test).spec(name, victims)
        else:
            yield Sizes(10_000, side).spec(name, victims)
        return
    images, labels = _arrays(given, image_size)
    held = _data_set(images, labels)
    registry.register(held)
    sources.HELD[held] = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()[:12]
    try:
        yield Sizes(len(images), images.shape[-1]).spec(held.name, victims)
    finally:
        sources.HELD.pop(held)
        registry.forget(held)


def _arrays(given: Any, image_size: int | None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N,3,S,S) uint8, and labels (N,); of images that are the same the first, as parts share none."""
    pair = isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], Tensor | np.ndarray)
    try:
        items = list(zip(*given, strict=True)) if pair else [given[place] for place in range(len(given))]
        images = torch.stack([_pixels(image, image_size) for image, _ in items])
        labels = np.array([int(label) for _, label in items], dtype=np.int64)
    except (TypeError, ValueError, IndexError, RuntimeError, DpbenchError) as error:
        raise DpbenchError(
            f"images are {type(given).__name__}, which cannot be read as images and labels ({error}); expected a "
            "folder, (images, labels), or a data set of pairs: an image in [0, 1] or of PIL, and a whole number"
        ) from error
    side = images.shape[-1]
    if images.shape[1:] != (3, side, side) or side < 16:
        raise DpbenchError(
            f"images have the shape {tuple(images.shape[1:])}; expected (3, S, S) from 16 pixels; image_size= brings "
            "others to one size"
        )
    if labels.min() < 0 or len(set(labels.tolist())) < 2:
        raise DpbenchError(
            "labels are of one class, or negative; expected whole numbers from 0, of two classes or more"
        )
    if labels.max() > LARGEST_LABEL:
        raise DpbenchError(
            f"labels go up to {labels.max()}: the network would have a logit for each number below it; expected "
            f"classes that are numbered from 0, at most {LARGEST_LABEL}"
        )
    first: dict[str, int] = {}
    for place, image in enumerate(images.numpy()):
        first.setdefault(content_hash(image), place)
    kept = list(first.values())
    return images.numpy()[kept], labels[kept]


def _pixels(image: Any, size: int | None) -> Tensor:
    """One image as (3,S,S) uint8."""
    if isinstance(image, Image.Image):
        image = np.asarray(to_rgb(image)).transpose(2, 0, 1)
    tensor = image.detach().cpu() if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    if tensor.is_floating_point():
        if not bool(((tensor >= 0) & (tensor <= 1)).all()):
            raise ValueError("an image has values outside [0, 1]; undo its normalisation")
        tensor = (tensor * 255).round()
    elif tensor.dtype != torch.uint8:
        raise ValueError(f"an image is of {tensor.dtype}; expected values in [0, 1], or uint8")
    tensor = tensor.float()
    if size is not None and tensor.shape[-2:] != (size, size):
        tensor = torch.nn.functional.interpolate(tensor[None], (size, size), mode="bilinear", antialias=True)[0]
    return tensor.round().to(torch.uint8)


def _data_set(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> type[ImageSet]:
    """A data set that draws its parts from these images, each once."""

    class Given(ImageSet):
        """Images that were handed in."""

        name: ClassVar[str] = "given images"
        classes: ClassVar[tuple[str, ...]] = tuple(f"class {label:05}" for label in range(int(labels.max()) + 1))

        def draw(self, part: PartName, indices: range, *, size: int, seed: int) -> Drawn:
            order = np.random.default_rng(seed).permutation(len(images))
            chosen = [_place(part, index, order) for index in indices]
            return images[chosen], labels[chosen]

    return Given


def _place(part: PartName, index: int, order: Sequence[int] | NDArray[np.int64]) -> int:
    """The image at a place of a part: private ones come first, then auxiliary ones, then those to test on."""
    count = len(order)
    first, second = int(SHARES["private"] * count), int((SHARES["private"] + SHARES["auxiliary"]) * count)
    start, end = {"private": (0, first), "auxiliary": (first, second), "test": (second, count)}[part]
    if start + index >= end:
        raise DpbenchError(f"{count} images leave {end - start} for the part {part}; ask for fewer")
    return int(order[start + index])
