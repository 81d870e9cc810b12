"""Tasks that wait for each other, given out in the order of the plan as they become ready."""

from __future__ import annotations

import heapq
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
    """

    def __init__(self, tasks: Sequence[Task], after: Mapping[str, Collection[str]]) -> None:
        self._places = {task.id: place for place, task in enumerate(tasks)}
        self._tasks = list(tasks)
        self._waits: dict[str, set[str]] = {}
        self._then: dict[str, list[str]] = defaultdict(list)
        for task in tasks:
            before = {other for other in after.get(task.id, ()) if other in self._places}
            self._waits[task.id] = before
            for other in before:
                self._then[other].append(task.id)
        self._ready = [place for place, task in enumerate(tasks) if not self._waits[task.id]]

    def next(self, running: Iterable[Task]) -> Task | None:
        """The first task that waits for nothing, and for which no running one may be training the same thing.

        Where all do, the first of them: it waits for a lock if it comes to that. None where none is ready.
        """
        busy = {task.alone for task in running if task.alone}
        passed: list[int] = []
        found: int | None = None
        while self._ready and len(passed) < LOOK_AHEAD:
            place = heapq.heappop(self._ready)
            if self._tasks[place].alone not in busy:
                found = place
                break
            passed.append(place)
        if found is None and passed:
            found = passed.pop(0)
        for place in passed:
            heapq.heappush(self._ready, place)
        return None if found is None else self._tasks[found]

    def done(self, task: Task) -> None:
        """A task is done, whatever came of it: what waited for it alone is ready."""
        for name in self._then.pop(task.id, ()):
            self._waits[name].discard(task.id)
            if not self._waits[name]:
                heapq.heappush(self._ready, self._places[name])

    def put_back(self, task: Task) -> None:
        """A task that was given out is to be given out again."""
        heapq.heappush(self._ready, self._places[task.id])

    def waiting_for(self, task: Task) -> list[Task]:
        """The tasks that wait for a task, directly."""
        return [self._tasks[self._places[name]] for name in self._then.get(task.id, ())]
