"""Where time goes: how long units of each kind took in earlier runs, and in which stages one run spent it."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dpbench.executors.executor import Task
from dpbench.machine.locks import held
from dpbench.machine.writing import Unwritable, write_atomically


@dataclass(frozen=True)
class Spent:
    """What units of one kind took: sums over `count` of them, and the most memory that one of them had.

    Attributes:
        count: of units.
        seconds: together.
        disk: bytes of their files, together.
        memory: bytes at most.
    """

    count: int = 0
    seconds: float = 0.0
    disk: float = 0.0
    memory: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.count + other.count,
            self.seconds + other.seconds,
            self.disk + other.disk,
            max(self.memory, other.memory),
        )


class Times:
    """What units took, in a small file in the cache: of one suite, by kind; where it has never run, of all suites.

    Args:
        cache: the cache folder.
        suite: protocol and name.
    """

    def __init__(self, cache: Path, suite: str) -> None:
        self.path = cache / "times.json"
        self.suite = suite

    def add(self, measured: dict[str, Spent]) -> None:
        """Remember what units of a kind took, beside what is known."""
        if not measured:
            return
        with contextlib.suppress(Unwritable), held(self.path.with_suffix(".lock")):  # an estimate is worth no failure
            known = self._read()
            own = known.setdefault(self.suite, {})
            for kind, spent in measured.items():
                own[kind] = own.get(kind, Spent()) + spent
            told = {suite: {kind: asdict(one) for kind, one in kinds.items()} for suite, kinds in known.items()}
            text = json.dumps(told, indent=1) + "\n"
            write_atomically(self.path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def expected(self, kinds: Iterable[str]) -> tuple[Spent, int]:
        """What units of these kinds will take together, and how many of them nothing is known of."""
        known, total, unknown = self.of_one(), Spent(), 0
        for kind in kinds:
            if kind in known:
                total += known[kind]
            else:
                unknown += 1
        return total, unknown

    def of_one(self) -> dict[str, Spent]:
        """What one unit of each kind takes that anything is known of."""
        known = self._read()
        sums: dict[str, Spent] = {}
        for of_suite in known.values():
            for kind, spent in of_suite.items():
                sums[kind] = sums.get(kind, Spent()) + spent
        sums |= {kind: spent for kind, spent in known.get(self.suite, {}).items() if spent.count}
        return {
            kind: Spent(1, spent.seconds / spent.count, spent.disk / spent.count, spent.memory)
            for kind, spent in sums.items()
            if spent.count
        }

    def _read(self) -> dict[str, dict[str, Spent]]:
        """What the file says; what is no number in it counts as not said."""
        try:
            told = json.loads(self.path.read_text(encoding="utf-8"))
            return {suite: {kind: _sound(one) for kind, one in kinds.items()} for suite, kinds in told.items()}
        except (OSError, ValueError, AttributeError, TypeError, RecursionError):
            return {}


def _sound(told: dict[str, Any]) -> Spent:
    if not all(isinstance(value, int | float) and 0 <= value < math.inf for value in told.values()):
        raise ValueError("no numbers")
    return Spent(**told)


MICRO = 1_000_000


class Trace:
    """Where the time of a run went: a table of stages, and a trace that Perfetto and Chrome open.

    Follows tasks from when they are given out to when they are done; bounded by what was measured in this run.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._open: dict[str, tuple[int, float]] = {}
        self._events: list[dict[str, Any]] = []
        self.seconds: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def begin(self, task: Task) -> None:
        """A task is given out: it gets the first lane that is free."""
        taken = {lane for lane, _ in self._open.values()}
        lane = next(lane for lane in range(len(taken) + 1) if lane not in taken)
        self._open[task.id] = (lane, time.monotonic() - self._began)

    def end(self, task: Task, stages: Mapping[str, float]) -> None:
        """A task is done; `stages`: the seconds of each of its stages, one after the other."""
        lane, start = self._open.pop(task.id)
        end = time.monotonic() - self._began
        self._add(task.makes or task.id, lane, start, end - start)
        told = {task.makes: end - start} if task.makes else stages
        for name, seconds in told.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
            self.counts[name] = self.counts.get(name, 0) + 1
        # the stages are what was measured of the task; the time before them went into starting its worker, and waiting
        at = end - sum(stages.values())
        for name, seconds in stages.items():
            self._add(name, lane, at, seconds)
            at += seconds

    def _add(self, name: str, lane: int, start: float, seconds: float) -> None:
        place = {"pid": 1, "tid": lane + 1, "ts": round(start * MICRO), "dur": round(seconds * MICRO)}
        self._events.append({"name": name, "ph": "X", "cat": "dpbench", **place})

    def table(self) -> list[str]:
        """A line for each stage, the longest first: `attack   120.3 s  61%  40 times`."""
        total = sum(self.seconds.values()) or 1.0
        longest = sorted(self.seconds.items(), key=lambda item: -item[1])
        return [
            f"{name:12} {seconds:9.1f} s  {seconds / total:4.0%}  {self.counts[name]} times"
            for name, seconds in longest
        ]

    def write(self, path: Path) -> None:
        """As JSON in the trace event format of Chrome: one lane for each worker."""
        text = json.dumps({"traceEvents": self._events, "displayTimeUnit": "ms"})
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
