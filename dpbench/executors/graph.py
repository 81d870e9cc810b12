"""Tasks that wait for each other, given out as they become ready: those on the longest path first."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from dpbench.executors.executor import Task

LOOK_AHEAD = 256
"""Tasks that are passed over, at most, for one that trains nothing that is being trained."""


@dataclass(frozen=True)
class Need:
    """Something that units share, made before them and kept in the cache.

    Attributes:
        name: what `Lab.make` is asked for, such as `backbone`.
        key: equal where it is the same thing.
        after: keys of what it is made from.
    """

    name: str
    key: str
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ties:
    """What a unit has to do with others, for their order; nothing here changes a figure.

    Attributes:
        needs: what it shares with others, in the order in which it is made.
        near: equal where units use the same networks.
        alone: equal where units may want to train the same thing.
        after: ids of units that come before it.
    """

    needs: tuple[Need, ...] = ()
    near: str = ""
    alone: str = ""
    after: tuple[str, ...] = ()


class Graph:
    """What is left to do of a run.

    Args:
        tasks: in the order of the plan.
        after: id of a task -> ids of those that come before it; what is not among the tasks counts as done.
        seconds: id of a task -> how long it will take. What is left from it to the end counts to the next power of
            two, so that tasks of about a length stay in the order of the plan; empty: they all do.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        after: Mapping[str, Collection[str]],
        seconds: Mapping[str, float] | None = None,
    ) -> None:
        self._places = {task.id: place for place, task in enumerate(tasks)}
        self._tasks = list(tasks)
        self._waits: dict[str, set[str]] = {}
        self._then: dict[str, list[str]] = defaultdict(list)
        for task in tasks:
            before = {other for other in after.get(task.id, ()) if other in self._places}
            self._waits[task.id] = before
            for other in before:
                self._then[other].append(task.id)
        self._ranks = self._longest_first(seconds) if seconds else [0] * len(tasks)
        self._ready = [(self._ranks[place], place) for place, task in enumerate(tasks) if not self._waits[task.id]]
        heapq.heapify(self._ready)

    def _longest_first(self, seconds: Mapping[str, float]) -> list[int]:
        """By place, the lower the more is left from this task to the end of those that wait for it."""
        waits = {name: len(before) for name, before in self._waits.items()}
        order = [task.id for task in self._tasks if not waits[task.id]]
        for name in order:  # grows
            for later in self._then.get(name, ()):
                waits[later] -= 1
                if not waits[later]:
                    order.append(later)
        left: dict[str, float] = {}
        for name in reversed(order):
            left[name] = seconds.get(name, 0.0) + max((left[later] for later in self._then.get(name, ())), default=0.0)
        return [-math.frexp(left.get(task.id, 0.0))[1] if left.get(task.id) else 0 for task in self._tasks]

    def next(self, running: Iterable[Task], elsewhere: Iterable[Task] = ()) -> Task | None:
        """The first task that waits for nothing, and for which no running one may be training the same thing.

        Where all do, the first of them: it waits for a lock if it comes to that. None where none is ready.

        Args:
            running: tasks that are carried out here.
            elsewhere: those that another run carries out: what uses the same networks is left to it while there is
                anything else, since it has loaded them, and released through them.
        """
        theirs = {task.near for task in elsewhere if task.near}
        busy = {task.alone for task in running if task.alone}
        passed: list[tuple[int, int]] = []
        found: tuple[int, int] | None = None
        while self._ready and len(passed) < LOOK_AHEAD:
            first = heapq.heappop(self._ready)
            task = self._tasks[first[1]]
            if task.alone not in busy and task.near not in theirs:
                found = first
                break
            passed.append(first)
        if found is None and passed:
            found = passed.pop(0)
        for one in passed:
            heapq.heappush(self._ready, one)
        return None if found is None else self._tasks[found[1]]

    def done(self, task: Task) -> None:
        """A task is done, whatever came of it: what waited for it alone is ready."""
        for name in self._then.pop(task.id, ()):
            self._waits[name].discard(task.id)
            if not self._waits[name]:
                self._becomes_ready(name)

    def put_back(self, task: Task) -> None:
        """A task that was given out is to be given out again."""
        self._becomes_ready(task.id)

    def _becomes_ready(self, name: str) -> None:
        place = self._places[name]
        heapq.heappush(self._ready, (self._ranks[place], place))

    def waiting_for(self, task: Task) -> list[Task]:
        """The tasks that wait for a task, directly."""
        return [self._tasks[self._places[name]] for name in self._then.get(task.id, ())]
