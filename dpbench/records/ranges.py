"""The values that figures can have, checked when a record is written and when it is read."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from dpbench.metrics.table import BUILT_IN, range_of

if TYPE_CHECKING:
    from dpbench.contract.metric import MetricFacts
    from dpbench.metrics.recognition import Recognition

SLACK = 1e-4
"""How far a figure may lie outside its range: rounding takes it there."""

HEADLINES = ("leakage", "ssim", "reid_top1", "identity_top1")
"""Figures that a suite can be about."""


def of_attack(
    victims: Sequence[str],
    fidelity: Mapping[str, Sequence[float]],
    recognition: Recognition | None,
    *,
    metrics: Sequence[MetricFacts] = (),
    finished: bool,
) -> Iterator[str]:
    """What is wrong with what an attack recovered.

    Args:
        victims: their hashes.
        fidelity: metric -> one figure per victim.
        recognition: whether the reconstructions give the victims away.
        metrics: how figures are read that are not dpbench's own.
        finished: a finished attack has victims.
    """
    count = len(victims)
    if finished and not count:
        yield "no victims"
    if not all(0 < len(victim) <= 128 for victim in victims):
        yield "victims are no hashes"
    for metric, values in fidelity.items():
        if len(values) != count:
            yield f"{len(values)} figures of {metric[:40]} for {count} victims"
        yield from outside(metric, values, metrics)
    yield from _of_metrics(metrics)
    if recognition is None:
        return
    for name, answers in (("reid_rank", recognition.reid_rank), ("label_read", recognition.label_read)):
        if len(answers) != count:
            yield f"{len(answers)} answers of {name} for {count} victims"
    yield from number("gallery", recognition.gallery, max(1, count))
    yield from each("reid_rank", recognition.reid_rank, 0, recognition.gallery - 1)
    if recognition.identity_rank is not None:
        if len(recognition.identity_rank) != count or recognition.identities is None:
            yield f"{len(recognition.identity_rank)} answers of identity_rank for {count} victims"
        yield from each("identity_rank", recognition.identity_rank, 0, (recognition.identities or 1) - 1)
    yield from number("identities", recognition.identities, 1)
    yield from number("judge_accuracy", recognition.judge_accuracy, 0, 1)


def outside(metric: str, values: Sequence[float], metrics: Sequence[MetricFacts] = ()) -> Iterator[str]:
    """What of the figures of a metric, one per victim, cannot be."""
    own = next((facts.range for facts in metrics if facts.name == metric), None)
    yield from each(metric, values, *(own or range_of(metric)))


def _of_metrics(metrics: Sequence[MetricFacts]) -> Iterator[str]:
    names = [facts.name for facts in metrics]
    for facts in metrics:
        if names.count(facts.name) > 1 or facts.name in BUILT_IN:
            yield f"two metrics are called {facts.name!r}"
        if not facts.range[0] < facts.range[1]:
            yield f"the range of metric {facts.name!r} is empty"


def sound_figures(
    fidelity: Mapping[str, list[float]], missing: Mapping[str, str], metrics: Sequence[MetricFacts] = ()
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """The metrics that hold what can be, and why others are missing: those that do not count as not measured."""
    wrong = {metric: found for metric, values in fidelity.items() for found in outside(metric, values, metrics)}
    sound = {metric: values for metric, values in fidelity.items() if metric not in wrong}
    return sound, {**missing, **{metric: f"left out: {found}" for metric, found in wrong.items()}}


def of_times(seconds: Mapping[str, float], created: str) -> Iterator[str]:
    """What is wrong with the times of a record: seconds per stage, and when it was made (ISO 8601, or empty)."""
    for stage, spent in seconds.items():
        yield from number(f"seconds.{stage[:40]}", spent, 0)
    try:
        datetime.datetime.fromisoformat(created or "2000-01-01")
    except ValueError:
        yield f"created is {created[:40]!r}, expected a date"


def number(name: str, value: object, low: float, high: float = math.inf) -> Iterator[str]:
    """What is wrong with one figure, which is finite and in [low, high]; None is no figure."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        yield f"{name} is no number"
        return
    yield from each(name, [value], low, high)


def each(name: str, values: Sequence[float], low: float, high: float) -> Iterator[str]:
    """What is wrong with the first of some figures that is not finite or not in [low, high]."""
    for value in values:
        # a whole number too large for a float is out of every range there is
        finite = isinstance(value, int) or math.isfinite(value)
        if not finite or not low - SLACK <= value <= high + SLACK or (isinstance(value, int) and abs(value) > 2**63):
            span = f"at least {low:g}" if math.isinf(high) else f"in [{low:g}, {high:g}]"
            yield f"{name[:40]} is {value!s:.20}, expected {'a finite number' if math.isinf(low) else span}"
            return
