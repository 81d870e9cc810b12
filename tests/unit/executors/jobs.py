"""Jobs for executors, in a module that worker processes import; nothing of torch."""

import os
import signal
import time
from dataclasses import dataclass

from dpbench.errors import DpbenchError
from dpbench.executors.executor import Job


@dataclass(frozen=True)
class Behaving(Job):
    """Does what a task's unit says."""

    def start(self):
        return behave


def behave(task, progress):
    progress(f"at {task.id}")
    what, _, rest = task.unit.partition(" ")
    if what == "signal":
        os.kill(os.getpid(), getattr(signal, rest))
    if what == "exit":
        os._exit(int(rest))
    if what == "sleep":
        time.sleep(float(rest))
    if what == "child":  # a process of its own that outlives the task
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
        return pid
    if what == "raise":
        raise DpbenchError(rest)
    if what == "bug":
        raise KeyError(rest)
    if what == "worker":
        return os.getpid()
    return task.unit
