"""What a data set is: labelled images, each drawn from its part, its place and a seed alone."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dpbench.contract.plugin import Plugin
from dpbench.errors import DpbenchError

PartName = Literal["private", "auxiliary", "test"]
"""The defender's training images, the attacker's own, and those among which the victims are. They share no image."""

Drawn = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images (N,3,S,S) and labels (N,)."""


class ImageSet(Plugin, abc.ABC):
    """Labelled images under one name, drawn or read from files of its own.

    >>> import numpy as np
    >>> class Greys(dpbench.ImageSet):
    ...     name = "greys"
    ...     classes = ("dark", "bright")
    ...
    ...     def draw(self, part, indices, *, size, seed):
    ...         random = [np.random.default_rng([seed, *part.encode(), index]) for index in indices]
    ...         labels = np.array([index % 2 for index in indices])
    ...         pixels = [one.integers(128, size=(3, size, size)) for one in random]
    ...         return np.uint8(pixels + 128 * labels[:, None, None, None]), labels
    >>> images, labels = Greys().draw("test", range(4), size=8, seed=0)
    >>> images.shape, labels.tolist()
    ((4, 3, 8, 8), [0, 1, 0, 1])
    """

    classes: ClassVar[tuple[str, ...]]
    """Names of the labels, in their order; at least two."""

    @abc.abstractmethod
    def draw(self, part: PartName, indices: range, *, size: int, seed: int) -> Drawn:
        """Some images of one part.

        Each depends on `part`, its index, `size` and `seed` alone, whichever others are drawn with it: a part then
        stays the same when another grows. No image may be in two parts; it is checked.

        Args:
            part: whose images.
            indices: which of them, from 0; as many as a suite asks for, some at a time.
            size: side in pixels.
            seed: of the suite's `[dataset]`.

        Returns:
            (N,3,size,size) uint8 RGB, and the labels (N,) int64, positions in `classes`.

        Raises:
            DpbenchError: it does not hold so many images.
        """


def checked_classes(classes: object, name: str) -> tuple[str, ...]:
    """Names of classes, as a plug-in states them.

    Raises:
        DpbenchError: fewer than two, one twice, or something that is no text.
    """
    found = tuple(classes) if isinstance(classes, Sequence) and not isinstance(classes, str) else ()
    if not all(isinstance(label, str) and label for label in found) or len(set(found)) != len(found) or len(found) < 2:
        raise DpbenchError(f"data set {name!r}: classes are {str(classes)[:80]}; expected at least two different names")
    return found


def checked_images(drawn: Any, count: int, *, size: int, classes: int, name: str) -> Drawn:
    """Images and labels as a data set drew them.

    Raises:
        DpbenchError: another number of images, another shape or type, or a label that is none of the classes.
    """
    if not isinstance(drawn, tuple) or len(drawn) != 2:
        raise DpbenchError(f"data set {name!r} drew {type(drawn).__name__}; expected a pair: images and labels")
    images, labels = (np.asarray(one) for one in drawn)
    expected = (count, 3, size, size)
    if images.shape != expected or images.dtype != np.uint8:
        raise DpbenchError(
            f"data set {name!r} drew images {images.shape} of {images.dtype}; expected {expected} of uint8, 0 to 255"
        )
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise DpbenchError(
            f"data set {name!r} drew labels {labels.shape} of {labels.dtype}; expected ({count},) whole numbers"
        )
    if count and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        wrong = int(labels.min()) if labels.min() < 0 else int(labels.max())
        raise DpbenchError(f"data set {name!r} drew the label {wrong}; expected 0 to {classes - 1}, for its classes")
    return images, labels.astype(np.int64)


def numbered(part: PartName, indices: range) -> range:
    """Numbers that no other part has: for sets that draw each image from one number."""
    first = get_args(PartName).index(part) << 40  # so a part does not depend on the sizes of the others
    return range(first + indices.start, first + indices.stop)
