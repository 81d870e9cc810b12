"""Data sets that draw their images: which dpbench has, and how the parts that a suite asks for come out of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dpbench.contract.dataset import Drawn, ImageSet, PartName, checked_classes, checked_images
from dpbench.data.division import PARTS, Decoded, Part, Progress
from dpbench.data.embedded.leaves import Leaves
from dpbench.data.embedded.spectra import Spectra
from dpbench.data.images import Pixels, content_hash
from dpbench.data.spec import DatasetSpec

DRAWN = 1024
"""How many embedded images are drawn at once."""


@dataclass(frozen=True)
class Source:
    """A data set that draws its images: see `dpbench.contract.dataset`.

    Attributes:
        identity: JSON values that say which, beside what a suite says of it.
        classes: names of the labels.
        draw: some images of a part, at the size and by the seed that a suite says.
    """

    identity: Any
    classes: tuple[str, ...]
    draw: Callable[[DatasetSpec, PartName, range], Drawn]


BUILT_IN: dict[str, type[ImageSet]] = {cls.name: cls for cls in (Leaves, Spectra)}
"""Data sets that dpbench draws itself."""


def embedded(spec: DatasetSpec) -> Source | None:
    """The embedded data set of that name; None where there is none."""
    cls = BUILT_IN.get(spec.name)
    return None if cls is None else source_of(cls(), [cls.name, cls.version])


def source_of(images: ImageSet, identity: Any) -> Source:
    """A data set in this process."""

    def draw(spec: DatasetSpec, part: PartName, indices: range) -> Drawn:
        return images.draw(part, indices, size=spec.image_size, seed=spec.seed)

    return Source(identity, checked_classes(images.classes, images.name), draw)


def write_drawn(
    spec: DatasetSpec, source: Source, progress: Progress, write: Callable[[str, int, Pixels], None]
) -> Decoded:
    """Draw the parts that a suite asks for, and write each image as it comes.

    Args:
        spec: which images, and how many.
        source: what draws them.
        progress: shows a short text.
        write: takes the part, the place and the pixels (3,S,S) of one image.

    Raises:
        DpbenchError: what is drawn is no such image.
    """
    progress(f"drawing {spec.name}")
    parts: dict[str, Part] = {}
    for name in PARTS:
        labels, hashes = [], []
        for done in range(0, getattr(spec, name), DRAWN):
            chosen = range(done, min(done + DRAWN, getattr(spec, name)))
            drawn = source.draw(spec, name, chosen)
            pixels, numbers = checked_images(
                drawn, len(chosen), size=spec.image_size, classes=len(source.classes), name=spec.name
            )
            labels.append(numbers)
            for place, image in enumerate(pixels):
                write(name, done + place, image)
                hashes.append(content_hash(image))
        parts[name] = Part(np.concatenate(labels), hashes)
    return Decoded(parts, source.classes)
