"""What figures can be. Asked when a record is written and when it is read: what cannot be was edited or is a fault."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dpbench.metrics.guarantees import Guarantees
    from dpbench.metrics.recognition import Recognition
    from dpbench.records.record import Record

RANGES = {
    "mse": (0.0, 1.0),
    "psnr_db": (0.0, 100.0),
    "ssim": (-1.0, 1.0),
    "ms_ssim": (0.0, 1.0),
    "lpips": (0.0, 10.0),
}
"""Metric -> its least and its largest value, on images in [0, 1]; any other metric is finite."""

SLACK = 1e-4
"""How far rounding takes a figure out of its range."""

HEADLINES = ("leakage", "ssim", "reid_top1", "identity_top1")
"""Figures that a suite can be about."""


def impossible(record: Record) -> list[str]:
    """What in the record of a cell cannot be, a phrase for each; empty where all can."""
    return list(_of_cell(record))


def _of_cell(record: Record) -> Iterator[str]:
    count = len(record.victims)
    if record.status == "ok" and count != record.cell.victims:
        yield f"{count} victims, the cell has {record.cell.victims}"
    yield from of_attack(record.victims, record.fidelity, record.recognition, finished=record.status == "ok")
    if record.utility is not None:
        correct, top5 = record.utility.correct, record.utility.top5
        if not correct:
            yield "utility.correct is empty"
        if top5 is not None and len(top5) != len(correct):
            yield f"utility.top5 has {len(top5)} images, utility.correct {len(correct)}"
        elif top5 is not None and any(one and not five for one, five in zip(correct, top5, strict=True)):
            yield "utility.top5 misses what utility.correct has"
    if record.guarantees is not None:
        yield from _of_guarantees(record.guarantees, count)
    yield from number("release_bits", record.release_bits, 0)
    if record.memory is not None:
        yield from number("memory.batch_size", record.memory.batch_size, 1)
        yield from number("memory.halved", record.memory.halved, 0)
        yield from number("memory.peak_bytes", record.memory.peak_bytes, 0)
    if "client_share" in record.released:
        share = record.released["client_share"]
        yield from number("released.client_share", "nothing" if share is None else share, 0, 1)
    if record.headline not in HEADLINES:
        yield f"headline is {record.headline[:40]!r}, expected one of {', '.join(HEADLINES)}"
    yield from of_times(record.seconds, record.created)
    for stage, peak in record.peak_memory_mb.items():
        yield from number(f"peak_memory_mb.{stage[:40]}", peak, 0)


def of_attack(
    victims: Sequence[str], fidelity: Mapping[str, Sequence[float]], recognition: Recognition | None, *, finished: bool
) -> Iterator[str]:
    """What is wrong with what an attack recovered.

    Args:
        victims: their hashes.
        fidelity: metric -> one figure per victim.
        recognition: whether the reconstructions give the victims away.
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
        yield from outside(metric, values)
    if recognition is None:
        return
    for name, answers in (("reid_rank", recognition.reid_rank), ("label_read", recognition.label_read)):
        if len(answers) != count:
            yield f"{len(answers)} answers of {name} for {count} victims"
    yield from number("gallery", recognition.gallery, max(1, count))
    yield from _all("reid_rank", recognition.reid_rank, 0, recognition.gallery - 1)
    if recognition.identity_rank is not None:
        if len(recognition.identity_rank) != count or recognition.identities is None:
            yield f"{len(recognition.identity_rank)} answers of identity_rank for {count} victims"
        yield from _all("identity_rank", recognition.identity_rank, 0, (recognition.identities or 1) - 1)
    yield from number("identities", recognition.identities, 1)
    yield from number("judge_accuracy", recognition.judge_accuracy, 0, 1)


def outside(metric: str, values: Sequence[float]) -> Iterator[str]:
    """What of the figures of a metric, one per victim, cannot be."""
    yield from _all(metric, values, *RANGES.get(metric, (-math.inf, math.inf)))


def sound_figures(
    fidelity: Mapping[str, list[float]], missing: Mapping[str, str]
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """The metrics that hold what can be, and why others are missing: those that do not count as not measured."""
    wrong = {metric: found for metric, values in fidelity.items() for found in outside(metric, values)}
    sound = {metric: values for metric, values in fidelity.items() if metric not in wrong}
    return sound, {**missing, **{metric: f"left out: {found}" for metric, found in wrong.items()}}


def _of_guarantees(guarantees: Guarantees, count: int) -> Iterator[str]:
    if len(guarantees.mse_bound) != count:
        yield f"{len(guarantees.mse_bound)} values of mse_bound for {count} victims"
    yield from _all("mse_bound", guarantees.mse_bound, 0, math.inf)
    yield from number("epsilon", guarantees.epsilon, 0)
    yield from number("delta", guarantees.delta, 0, 1)


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
    yield from _all(name, [value], low, high)


def _all(name: str, values: Sequence[float], low: float, high: float) -> Iterator[str]:
    for value in values:
        # a whole number too large for a float is out of every range there is
        finite = isinstance(value, int) or math.isfinite(value)
        if not finite or not low - SLACK <= value <= high + SLACK or (isinstance(value, int) and abs(value) > 2**63):
            span = f"at least {low:g}" if math.isinf(high) else f"in [{low:g}, {high:g}]"
            yield f"{name[:40]} is {value!s:.20}, expected {'a finite number' if math.isinf(low) else span}"
            return
