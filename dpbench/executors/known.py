"""Executors by name: this process, dpbench's others, those of installed packages, or one in a file."""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

from dpbench.errors import DpbenchError, is_interrupt, reason, unknown
from dpbench.executors.executor import Executor, Job, Means, Task
from dpbench.executors.on_ray import OnRay
from dpbench.executors.processes import Processes
from dpbench.machine import plugin_files


class Here(Executor):
    """This process: nothing to start, nothing to send. What takes the process down takes the run down."""

    name: ClassVar[str] = "here"

    def __init__(self, job: Job, means: Means) -> None:
        super().__init__(job, means)
        self.places = 1
        self._work = job.start()

    def submit(self, task: Task) -> Future[Any]:
        """See `Executor`; the task is done when this returns."""
        done: Future[Any] = Future()
        try:
            done.set_result(self._work(task, functools.partial(self.progress, task)))
        except DpbenchError as error:
            done.set_exception(error)
        return done


GROUP = "dpbench.executors"
"""Entry points of installed packages: name -> a class. An executor is part of the engine: its code must be trusted."""

OWN: dict[str, type[Executor]] = {cls.name: cls for cls in (Here, Processes, OnRay)}


def find_executor(name: str) -> type[Executor]:
    """The executor of that name, or the class in `path/to/file.py:Class`.

    Raises:
        DpbenchError: there is none, it does not import, or it is no `Executor`.
    """
    if ".py:" in name:
        return _checked(name, _from_file(name))
    if name in OWN:
        return OWN[name]
    installed = {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}
    if name not in installed:
        raise unknown("executor", name, [*OWN, *installed])
    try:
        return _checked(name, installed[name].load())
    except DpbenchError:
        raise
    except BaseException as error:  # a module may call sys.exit
        raise _unimportable(name, error) from error


def _from_file(reference: str) -> object:
    file, _, name = reference.rpartition(":")
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise DpbenchError(f"executor {reference!r}: there is no file {file}")
    try:
        module = plugin_files.load(path)
    except BaseException as error:
        raise _unimportable(reference, error) from error
    found = getattr(module, name, None)
    if found is None:
        here = [n for n, c in vars(module).items() if inspect.isclass(c) and c.__module__ == module.__name__]
        raise unknown(f"class in {path.name}", name, here)
    return found


def _unimportable(name: str, error: BaseException) -> BaseException:
    if is_interrupt(error):
        return error
    return DpbenchError(f"executor {name!r} does not import: {reason(error)}")


def _checked(name: str, found: object) -> type[Executor]:
    if not (inspect.isclass(found) and issubclass(found, Executor)):
        raise DpbenchError(f"executor {name!r} is not derived from dpbench.executors.executor.Executor")
    return found


def start_executor(job: Job, means: Means) -> Executor:
    """The executor that the means ask for, ready to take tasks.

    Raises:
        DpbenchError: as `find_executor`, or it cannot start.
    """
    several = (means.workers or 1) > 1 or means.timeout is not None
    return find_executor(means.executor or (Processes.name if several else Here.name))(job, means)
