"""The tasks of a run: what each waits for, which come first, and what one took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpbench.executors.executor import Task
from dpbench.executors.graph import Graph, Ties
from dpbench.executors.times import Spent
from dpbench.running.protocol import Plan, Protocol, R
from dpbench.running.unit import U

MAKING = "make {}"
"""The kind of a task that makes this, beside the kinds of units."""

UNKNOWN_SECONDS = 1.0
"""What a task of a kind counts that has never been measured."""


def tasks_of(
    protocol: Protocol[U, Any], units: Sequence[U], *, shared: bool, known: Mapping[str, Spent] | None = None
) -> Graph:
    """The tasks of units, and what each waits for.

    Args:
        protocol: of the units.
        units: to be measured, in order.
        shared: what they share is made first, by tasks of its own; else each makes what is not there when it needs it.
        known: kind -> what one of it takes: the longest path comes first. None: all in order.
    """
    tasks: list[Task] = []
    after: dict[str, list[str]] = {}
    for unit in units:
        ties = protocol.ties(unit)
        ties = ties if shared else Ties(near=ties.near)
        for need in ties.needs:
            if need.key not in after:
                after[need.key] = list(need.after)
                tasks.append(Task(need.key, unit, makes=need.name))
        after[unit.id] = [*(need.key for need in ties.needs), *ties.after]
        tasks.append(Task(unit.id, unit, near=ties.near, alone=ties.alone))
    kinds = {task.id: MAKING.format(task.makes) if task.makes else protocol.kind_of(task.unit) for task in tasks}
    seconds = (
        {name: known[kind].seconds if kind in known else UNKNOWN_SECONDS for name, kind in kinds.items()}
        if known
        else {}
    )
    return Graph(tasks, after, seconds)


def taken_by(record: R, plan: Plan[Any, R]) -> Spent:
    """What measuring a unit took, with what it left on disk, for estimates of later runs."""
    files = [plan.output / name for name in record.kept]
    files.append(plan.protocol.store.path(plan.output, record.id))
    disk = sum(path.stat().st_size for path in files if path.is_file())
    memory = getattr(getattr(record, "memory", None), "peak_bytes", None)
    return Spent(1, sum(record.seconds.values()), disk, memory or 0)
