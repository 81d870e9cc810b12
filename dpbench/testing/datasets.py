"""What every data set keeps to: images and labels that depend on part, place, size and seed alone, each in one part."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import get_args

import numpy as np

from dpbench.contract.dataset import Drawn, ImageSet, PartName, checked_classes, checked_images
from dpbench.data.images import content_hash
from dpbench.machine.randomness import seeded
from dpbench.testing.rules import expect, is_documented
from dpbench.testing.tiny import CPU

DRAWN = 48
"""Images of each part that are looked at."""

SIDES = (16, 32)
PARTS: tuple[PartName, ...] = get_args(PartName)


class CheckedImageSet:
    """A data set."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def drawn(self, part: PartName, indices: range, size: int = SIDES[0]) -> Drawn:
        """What it draws with seed 0, checked."""
        found = self.images.draw(part, indices, size=size, seed=0)
        return checked_images(found, len(indices), size=size, classes=len(self.images.classes), name=self.images.name)


def documented(checked: CheckedImageSet) -> None:
    """The class has a docstring, and every parameter a description: `dpbench list` shows them."""
    is_documented(type(checked.images))


def names_its_classes(checked: CheckedImageSet) -> None:
    """`classes` names the labels, at least two of them, no name twice."""
    checked_classes(getattr(checked.images, "classes", ()), checked.images.name)


def draws_what_is_asked(checked: CheckedImageSet) -> None:
    """Any range of a part, at any size, is as many uint8 images and labels of the classes."""
    for part, size in itertools.product(PARTS, SIDES):
        checked.drawn(part, range(2), size)
        checked.drawn(part, range(3, 4), size)


def shows_its_classes(checked: CheckedImageSet) -> None:
    """Private and test images show at least two classes, or there is nothing to predict."""
    for part in ("private", "test"):
        _, labels = checked.drawn(part, range(DRAWN))
        expect(len(np.unique(labels)) > 1, f"{DRAWN} {part} images all have the label {labels[0]}")


def an_image_stands_alone(checked: CheckedImageSet) -> None:
    """An image and its label depend on part, index, size and seed, not on what is drawn with it."""
    for part in PARTS:
        images, labels = checked.drawn(part, range(8))
        some, their = checked.drawn(part, range(3, 5))
        expect(
            np.array_equal(images[3:5], some) and np.array_equal(labels[3:5], their),
            f"{part} images 3 and 4 are others when they are drawn alone; draw each from its own index",
        )


def the_same_again(checked: CheckedImageSet) -> None:
    """The same images come again, whatever the global generators say, and from another instance."""
    found = []
    for seed in (1, 2):
        with seeded(seed, CPU):
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            again = CheckedImageSet(checked.images.model_copy())
            found.append([again.drawn(part, range(4)) for part in PARTS])
    same = all(
        np.array_equal(one, other)
        for first, second in zip(*found, strict=True)
        for one, other in zip(first, second, strict=True)
    )
    expect(same, "the same indices are other images the second time; draw from a generator of `seed` and the index")


def parts_share_no_image(checked: CheckedImageSet) -> None:
    """Private, auxiliary and test images are different ones: all soundness rests on it."""
    hashes = {part: {content_hash(image) for image in checked.drawn(part, range(DRAWN))[0]} for part in PARTS}
    for one, other in itertools.combinations(PARTS, 2):
        shared = len(hashes[one] & hashes[other])
        expect(not shared, f"{shared} of {DRAWN} {one} images are {other} images too; let `part` choose among images")


RULES: tuple[Callable[[CheckedImageSet], None], ...] = (
    documented,
    names_its_classes,
    draws_what_is_asked,
    shows_its_classes,
    an_image_stands_alone,
    the_same_again,
    parts_share_no_image,
)
"""In this order."""
