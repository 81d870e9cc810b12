"""The embedded image set: dead leaves with one of ten shapes in front, drawn from a seed.

Dead leaves (Lee, Mumford & Huang 2001, "Occlusion models for natural images") are discs of random place, size and
colour that hide each other; with a radius density of r^-3 they have the statistics of natural images: edges,
occlusion, scale invariance. Differs from the paper: a finite number of discs, the radius bounded on both sides,
a disc's place uniform over the image grown by its own radius, colours around a palette of the image, linear shading.

The same bytes on every platform: the draws are raw PCG64 integers, the arithmetic is + - * / sqrt and comparisons,
each rounded once by IEEE 754, and the pixels are integer means of the samples. A scene lives in the unit square,
so the same image can be had at any size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dpbench.contract.dataset import Drawn, ImageSet, PartName, numbered
from dpbench.data.embedded.shapes import CLASSES, Samples

Floats = NDArray[np.float64]

LEAVES = 110
SMALLEST, LARGEST = 0.045, 0.5
"""Radii of the leaves; the side of the image is 1."""

_PER_LEAF = 9
_PER_SCENE = 20
_SAMPLES_AT_ONCE = 1 << 19  # bounds the memory, and keeps a batch inside the processor's cache
_CONTRAST, _CHROMA = 0.3, 0.16


def draw(seed: int, indices: range, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The images of these indices, each drawn from (seed, index) alone.

    Args:
        seed: names the image set.
        indices: which of its images.
        size: side in pixels; the scene does not depend on it.

    Returns:
        (N,3,size,size) uint8 and the labels (N,), positions in `CLASSES`. Ten images in a row have ten labels.
    """
    images = np.empty((len(indices), 3, size, size), np.uint8)
    labels = np.array([index % len(CLASSES) for index in indices], np.int64)
    batch = max(1, _SAMPLES_AT_ONCE // (2 * size) ** 2)
    for start in range(0, len(indices), batch):
        part = slice(start, start + batch)
        images[part] = _render(_uniforms(seed, indices[part]), labels[part], size)
    return images, labels


def _uniforms(seed: int, indices: range) -> Floats:
    """(N, draws) in [0,1). Raw integers: numpy promises their stream for good, its distributions' it does not."""
    raw = np.empty((len(indices), LEAVES * _PER_LEAF + _PER_SCENE), np.uint64)
    for row, index in zip(raw, indices, strict=True):
        row[:] = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(index,))).random_raw(row.size)
    return (raw >> np.uint64(11)).astype(np.float64) / (1 << 53)


def _render(uniforms: Floats, labels: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    count, side = len(labels), 2 * size  # two samples a pixel each way: edges are antialiased
    scene = iter(uniforms[:, :_PER_SCENE].T)
    leaf = uniforms[:, _PER_SCENE:].reshape(count, _PER_LEAF, LEAVES).transpose(1, 0, 2)
    luminance = 0.25 + 0.5 * next(scene)
    tint = _signed(scene, 3) * 0.12
    position = ((np.arange(side) + 0.5) / side).astype(np.float64)

    near, far = 1 / (SMALLEST * SMALLEST), 1 / (LARGEST * LARGEST)  # no power: libraries round it differently
    radius = 1 / np.sqrt(near - leaf[0] * (near - far))
    x, y = (leaf[k] * (1 + 2 * radius) - radius for k in (1, 2))
    lightness = luminance[:, None] + (leaf[3] - 0.5) * 0.4
    colours = lightness[:, None] + tint[:, :, None] + (leaf[4:7].transpose(1, 0, 2) - 0.5) * _CHROMA
    slope_x, slope_y = (leaf[k] - 0.5 for k in (7, 8))
    offset = 1 - slope_x * x - slope_y * y
    # (count, 6, LEAVES): colour, then the plane of its shading; leaf 0 lies below all and fills the image
    leaves = np.concatenate([colours, np.stack([slope_x, slope_y, offset], 1)], 1).astype(np.float32)
    top = _topmost(x, y, radius, side)

    mask = np.empty((count, side, side), np.bool_)
    place = _signed(scene, 2) * 0.2 + 0.5
    half = 0.24 + 0.16 * next(scene)
    turn = 2 * next(scene) - 1
    # a rational point of the circle: exact, where sin and cos differ between platforms
    cosine, sine = (1 - turn * turn) / (1 + turn * turn), 2 * turn / (1 + turn * turn)
    sign = np.where(next(scene) < 0.5, -1.0, 1.0)
    cosine, sine = cosine * sign / half, sine * sign / half
    for label, inside in enumerate(CLASSES.values()):
        of = np.flatnonzero(labels == label)
        if of.size:
            across = (position - place[of, 0, None])[:, None, :]
            down = (position - place[of, 1, None])[:, :, None]
            c, s = cosine[of, None, None], sine[of, None, None]
            u, v = c * across + s * down, c * down - s * across
            mask[of] = inside(u.astype(np.float32), v.astype(np.float32))

    away = np.where(luminance < 0.5, 1.0, -1.0) * (_CONTRAST + 0.25 * next(scene))
    front = (luminance + away)[:, None] + _signed(scene, 3) * 0.2
    plane = _signed(scene, 2) * 0.25
    light = _signed(scene, 2) * 0.2

    across32, down32 = position.astype(np.float32)[None, None, :], position.astype(np.float32)[None, :, None]

    def shade(slopes: Floats) -> Samples:
        """A plane of mean 1 over the image."""
        a, b = slopes.astype(np.float32).T[:, :, None, None]
        return np.asarray(1 + a * (across32 - np.float32(0.5)) + b * (down32 - np.float32(0.5)), np.float32)

    flat = top + (np.arange(count, dtype=np.int32) * LEAVES)[:, None, None]
    of_leaf = leaves.transpose(1, 0, 2).reshape(6, -1)
    shading = of_leaf[3][flat] * across32 + of_leaf[4][flat] * down32 + of_leaf[5][flat]
    shape_shading, whole = shade(plane), shade(light) * np.float32(255)
    image = np.empty((count, 3, size, size), np.uint8)
    for channel in range(3):
        value = of_leaf[channel][flat] * shading
        np.copyto(value, front[:, channel, None, None].astype(np.float32) * shape_shading, where=mask)
        value = np.minimum(np.maximum(value * whole, np.float32(0)), np.float32(255))
        level = value.astype(np.uint16)
        total = level[:, ::2, ::2] + level[:, 1::2, ::2] + level[:, ::2, 1::2] + level[:, 1::2, 1::2]
        image[:, channel] = (total + 2) >> 2
    return image


def _signed(scene: Iterator[Floats], count: int) -> Floats:
    """(N, count) uniform in [-1,1)."""
    return np.stack([2 * next(scene) - 1 for _ in range(count)], 1)


def _topmost(x: Floats, y: Floats, radius: Floats, side: int) -> NDArray[np.int32]:
    """Which leaf is seen at each sample: (N, side, side), positions in the order of falling; later hides earlier.

    A leaf is painted as runs of samples, one for each row that it meets: the work is the area that the leaves cover,
    not the image times the number of leaves.
    """
    count, leaves = radius.shape
    first = np.maximum(np.ceil((y - radius) * side - 0.5), 0).astype(np.int64).ravel()
    last = np.minimum(np.floor((y + radius) * side - 0.5), side - 1).astype(np.int64).ravel()
    rows_of = np.maximum(last - first + 1, 0)
    leaf = np.repeat(np.arange(count * leaves), rows_of)
    row = _counting(rows_of) + first[leaf]
    down = (row + 0.5) / side - y.ravel()[leaf]
    reach = np.sqrt(np.maximum(radius.ravel()[leaf] * radius.ravel()[leaf] - down * down, 0))
    left = np.maximum(np.ceil((x.ravel()[leaf] - reach) * side - 0.5), 0).astype(np.int64)
    right = np.minimum(np.floor((x.ravel()[leaf] + reach) * side - 0.5), side - 1).astype(np.int64)
    length = np.maximum(right - left + 1, 0)
    start = ((leaf // leaves) * side + row) * side + left
    sample = np.repeat(start, length) + _counting(length)
    top = np.zeros(count * side * side, np.int32)
    top[sample] = np.repeat((leaf % leaves).astype(np.int32), length)  # of repeated samples the last one stays
    return top.reshape(count, side, side)


def _counting(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 .. length - 1 for each length, one after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)


class Leaves(ImageSet):
    """Embedded: dead leaves with one of ten shapes in front, drawn from the seed."""

    name: ClassVar[str] = "leaves"
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "Lee, Mumford & Huang 2001, Occlusion models for natural images"
    classes: ClassVar[tuple[str, ...]] = tuple(CLASSES)

    def draw(self, part: PartName, indices: range, *, size: int, seed: int) -> Drawn:
        """See `ImageSet`."""
        return draw(seed, numbered(part, indices), size)
