"""What every executor keeps to: each task gives what it came to, errors stay errors, and nothing outlives the run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import psutil

from dpbench.errors import DpbenchError
from dpbench.executors.executor import Executor, Job, Means, Progress, Task
from dpbench.testing.rules import ContractError, expect

TASKS = 6
LONG = 600.0
"""Seconds for which a task sleeps that is stopped."""

SOON = 30.0
"""Seconds after which an answer, or the end of a process, is overdue."""


@dataclass(frozen=True)
class Trial(Job):
    """A job whose tasks say themselves what they do: `(what, value)`."""

    def start(self) -> Callable[[Task, Progress], Any]:
        """See `Job`."""
        return attempt


def attempt(task: Task, progress: Progress) -> Any:
    """Carry out a task of a trial."""
    what, value = task.unit
    progress(what)
    if what == "fail":
        raise DpbenchError(value)
    if what == "sleep":
        time.sleep(value)
    return os.getpid() if what == "process" else value


def check_executor(cls: type[Executor], workers: int = 2) -> None:
    """Run the contract of an executor, with tasks that do next to nothing.

    Args:
        cls: the executor.
        workers: tasks at once.

    Raises:
        ContractError: it breaks a rule; the first one is named.
        DpbenchError: it is no executor, or does not start.
    """
    if not (isinstance(cls, type) and issubclass(cls, Executor)):
        raise DpbenchError(f"{cls!r} is no executor; expected a class derived from {Executor.__module__}.Executor")
    expect(isinstance(getattr(cls, "name", None), str) and bool(cls.name), f"{cls.__name__} has no name")
    expect(bool((cls.__doc__ or "").strip()), f"{cls.__name__} has no docstring; say where it carries out tasks")
    executor = cls(Trial(), Means(workers=workers))
    try:
        _gives_what_tasks_come_to(executor)
        _keeps_errors(executor)
        process = _answer(executor.submit(_task("process", None)))
        endless = None if process == os.getpid() else executor.submit(_task("sleep", LONG))
    finally:
        executor.close()
    if endless is not None:
        _ends(process, endless)


def _task(what: str, value: Any) -> Task:
    return Task(f"{what} {value}", (what, value))


def _gives_what_tasks_come_to(executor: Executor) -> None:
    expect(executor.places >= 1, f"{executor.places} places; expected 1 or more")
    for first in range(0, TASKS, executor.places):
        values = range(first, min(TASKS, first + executor.places))
        given = [executor.submit(_task("give", value)) for value in values]
        expect(all(isinstance(one, Future) for one in given), "submit gives no concurrent.futures.Future")
        found = [_answer(one) for one in given]
        expect(found == list(values), f"tasks that give {list(values)} gave {found}; return what `carry_out` returns")


def _keeps_errors(executor: Executor) -> None:
    try:
        found = _answer(executor.submit(_task("fail", "as it should")))
    except DpbenchError as error:
        expect("as it should" in str(error), f"a task raised 'as it should' and its future {str(error)!r}")
    else:
        raise ContractError(f"a task raised an error and its future gave {found!r}; the run must end with it")


def _answer(future: Future[Any]) -> Any:
    try:
        return future.result(timeout=SOON)
    except TimeoutError as error:
        raise ContractError(f"a task that does nothing gave no answer in {SOON:g} s") from error


def _ends(process: int, endless: Future[Any]) -> None:
    expect(endless.done() or endless.cancel(), "close() left a task going; end everything that was started")
    if psutil.pid_exists(process):
        try:
            psutil.Process(process).wait(SOON)
        except psutil.NoSuchProcess:
            return
        except psutil.TimeoutExpired as error:
            raise ContractError(f"close() left process {process} behind; end everything that was started") from error
