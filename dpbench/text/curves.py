"""Curves of a few hundred points, as plain values: what an attack logs while it runs."""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from typing import Any

CURVES = "curves"
"""The note of a record that holds them: name -> pairs of step and figure."""

MOST_CURVES = 8
MOST_POINTS = 200

LONGEST_NAME = 40


def keep_point(curves: dict[str, list[list[float]]], name: str, step: int, figure: Any) -> None:
    """Add a point to a curve; of too many about half go, so that they stay spread over all steps.

    Raises:
        ValueError: no single number, a name that is too long, or one curve too many.
    """
    value = _number(name, figure)
    if name not in curves and len(curves) >= MOST_CURVES:
        raise ValueError(f"log({name}=...): there are {MOST_CURVES} curves already ({', '.join(curves)}); log fewer")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"log({name[:LONGEST_NAME]}...=...): a name has at most {LONGEST_NAME} characters")
    curve = curves.setdefault(name, [])
    if not math.isfinite(value):
        return
    if curve and curve[-1][0] == step:
        curve[-1] = [step, value]
        return
    curve.append([int(step), value])
    if len(curve) > MOST_POINTS:
        curve[:] = _spread(curve, MOST_POINTS // 2)


def _spread(curve: list[list[float]], count: int) -> list[list[float]]:
    """So many points of a curve, at steps as evenly apart as there are; the first and the last stay."""
    ordered = sorted(curve)
    first, last = ordered[0][0], ordered[-1][0]
    steps = [point[0] for point in ordered]
    wanted = (first + (last - first) * index / (count - 1) for index in range(count))
    return [ordered[place] for place in dict.fromkeys(min(bisect_left(steps, step), len(steps) - 1) for step in wanted)]


def is_figure(value: object) -> bool:
    """Whether a value that somebody noted is a finite number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # not of NaN


def _number(name: str, figure: Any) -> float:
    try:
        return float(figure.detach() if hasattr(figure, "detach") else figure)
    except (TypeError, ValueError, RuntimeError) as error:
        came = f"a tensor of shape {tuple(figure.shape)}" if hasattr(figure, "shape") else type(figure).__name__
        raise ValueError(f"log({name}={came}): expected one number, such as loss.mean()") from error
