"""Where the time of a run went: a table of stages, and a trace that Perfetto and Chrome open."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpbench.executors.executor import Task
from dpbench.machine.writing import write_atomically

MICRO = 1_000_000


class Trace:
    """Follows tasks from when they are given out to when they are done. Bounded by what was measured in this run."""

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
