"""What an executor is: it takes tasks, and gives a future of what each came to."""

from __future__ import annotations

import abc
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ClassVar

from dpbench.errors import DpbenchError

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """One piece of work that nothing is left to wait for. It can be pickled.

    Attributes:
        id: tells it from the others of its run.
        unit: what it is about, such as a cell.
        makes: what it makes for others to find in the cache, such as `backbone`; empty: the unit is measured.
        near: equal where tasks use the same networks, which a worker may still have in memory.
        alone: equal where tasks may want to train the same thing: best not at the same time.
    """

    id: str
    unit: Any
    makes: str = ""
    near: str = ""
    alone: str = ""


class Job(abc.ABC):
    """A run, as whoever carries out its tasks needs to know it. It can be pickled."""

    @property
    def modules(self) -> tuple[str, ...]:
        """What every process of it imports: an executor may do so once for all."""
        return (type(self).__module__,)

    @abc.abstractmethod
    def start(self) -> Callable[[Task, Progress], Any]:
        """What carries out tasks in this process, one after another; devices are looked up here."""


LONGEST_SECONDS = 1e6
"""A longer limit than eleven days is none, and the system could not wait for it."""


@dataclass(frozen=True)
class Means:
    """With what a suite is run; nothing here changes what a cell is.

    Attributes:
        executor: a name, or `path/to/file.py:Class`; empty: this process, or several where `workers` or `timeout`
            ask for them.
        workers: tasks at once, from 1; None: one for each GPU where there are several, else this process alone.
        threads: that compute in each task; None: all cores in one process, 1 where `workers` are asked for. Another
            number rounds sums in another order, and fits other networks.
        timeout: seconds that a task may take, to `LONGEST_SECONDS`; None: any time.
        address: of a cluster, for executors that use one; empty: as the executor finds it, or one on this machine.
        compiled: optimisation loops are compiled, see `dpbench.machine.devices.compiled`; sums round in another order.
    """

    executor: str = ""
    workers: int | None = None
    threads: int | None = None
    timeout: float | None = None
    address: str = ""
    compiled: bool = False

    def __post_init__(self) -> None:
        for name in ("workers", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DpbenchError(f"--{name} {value} is not usable; expected 1 or more")
        if self.timeout is not None and not 0 < self.timeout <= LONGEST_SECONDS:
            raise DpbenchError(f"--timeout {self.timeout:g} is not usable; expected seconds, to {LONGEST_SECONDS:g}")
        if self.address and self.executor in ("", "here", "processes"):
            raise DpbenchError(f"--address {self.address} is of a cluster; add --executor ray, or leave it out")


class Lost(DpbenchError):
    """A task that ended with the process that carried it out, or at the time limit: its cell failed, others go on."""


class Executor(abc.ABC):
    """Where the tasks of a run are carried out. Derive from it, and name it with `--executor file.py:Class`.

    Args:
        job: what the tasks belong to: `settle(job)` in a process, then `carry_out(task)` there for each task.
        means: what the user asked for.

    Attributes:
        name: what it is called.
        places: how many tasks it takes at once.
        progress: called with a task and a short text, from any thread, where the executor knows what a task does.
    """

    name: ClassVar[str]

    def __init__(self, job: Job, means: Means) -> None:
        self.job = job
        self.means = means
        self.places = means.workers or 1
        self.progress: Callable[[Task, str], None] = lambda task, text: None

    @abc.abstractmethod
    def submit(self, task: Task) -> Future[Any]:
        """Carry out a task; gives what `carry_out(task)` returns. At most `places` are given before one is done.

        The future raises `Lost` where the task took its process with it; any other exception ends the run.
        """

    def close(self) -> None:
        """End everything that was started, whatever it does: the run is over, or was stopped."""
        return


_works: list[Callable[[Task, Progress], Any]] = []


def settle(job: Job) -> None:
    """Get this process ready for the tasks of a job."""
    _works[:] = [job.start()]


def carry_out(task: Task, progress: Progress = lambda text: None) -> Any:
    """Carry out a task in a process that `settle` got ready."""
    return _works[0](task, progress)
