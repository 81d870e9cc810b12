"""Ten shapes, each as a test of points: what stands in front of the leaves, and what their labels name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
Mask = NDArray[np.bool_]


def _square(u: Samples, v: Samples) -> Mask:
    return np.maximum(np.abs(u), np.abs(v)) < np.float32(0.72)


def _triangle(u: Samples, v: Samples) -> Mask:
    return (v > np.float32(-0.55)) & (np.float32(1.7320508) * np.abs(u) + v < np.float32(1.1))


def _diamond(u: Samples, v: Samples) -> Mask:
    return np.abs(u) * 2 + np.abs(v) < np.float32(1.1)


def _cross(u: Samples, v: Samples) -> Mask:
    a, b = np.abs(u), np.abs(v)
    return (np.minimum(a, b) < np.float32(0.27)) & (np.maximum(a, b) < np.float32(0.95))


def _circle(u: Samples, v: Samples) -> Mask:
    return u * u + v * v < np.float32(0.66)


def _ring(u: Samples, v: Samples) -> Mask:
    square = u * u + v * v
    return (square < np.float32(0.95)) & (square > np.float32(0.3))


def _star(u: Samples, v: Samples) -> Mask:
    # a pentagram is what lies inside at least four of five half planes
    inside = np.zeros(u.shape, np.int8)
    for a, b in _FIFTHS:
        inside += np.float32(a) * u + np.float32(b) * v < np.float32(0.36)
    return np.asarray(inside >= 4, np.bool_)


def _crescent(u: Samples, v: Samples) -> Mask:
    shifted = u - np.float32(0.5)
    moon: Mask = (u * u + v * v < 1) & (shifted * shifted + v * v > np.float32(0.6))
    return moon


def _half_disc(u: Samples, v: Samples) -> Mask:
    lowered = v + np.float32(0.4)
    return (u * u + lowered * lowered < 1) & (lowered > 0)


def _bar(u: Samples, v: Samples) -> Mask:
    return (np.abs(u) < 1) & (np.abs(v) < np.float32(0.27))


_FIFTHS = (
    (0.0, 1.0),
    (0.9510565, 0.309017),
    (0.5877853, -0.809017),
    (-0.5877853, -0.809017),
    (-0.9510565, 0.309017),
)
"""Unit vectors a fifth of a turn apart."""

CLASSES: dict[str, Callable[[Samples, Samples], Mask]] = {
    "bar": _bar,
    "circle": _circle,
    "crescent": _crescent,
    "cross": _cross,
    "diamond": _diamond,
    "half-disc": _half_disc,
    "ring": _ring,
    "square": _square,
    "star": _star,
    "triangle": _triangle,
}
"""Name -> is a point, (u, v) in units of the shape's half side, inside?"""
