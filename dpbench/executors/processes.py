"""Tasks in processes of this machine, a fixed number of them; one that dies or hangs is replaced."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar

import torch

from dpbench.errors import DpbenchError
from dpbench.executors import worker
from dpbench.executors.executor import Executor, Job, Lost, Means, Task
from dpbench.machine.devices import one_gpu
from dpbench.machine.memory import total_memory

WAITING = "OMP_WAIT_POLICY"

LARGEST_SHARE = 2
"""A worker that is larger than one part in so many of its share of the memory, after a task, is replaced."""


class Processes(Executor):
    """Processes that share nothing, each with its own interpreter, threads and, where there are, GPU."""

    name: ClassVar[str] = "processes"

    def __init__(self, job: Job, means: Means) -> None:
        super().__init__(job, means)
        self._job = pickle.dumps(job)
        self._context = _starting(job)
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._numbers = set(range(self.places))
        self._largest = total_memory(torch.device("cpu")) // self.places // LARGEST_SHARE
        self._lock = threading.Lock()
        self._closing = False
        self._threads = ThreadPoolExecutor(self.places, "dpbench-worker")

    def submit(self, task: Task) -> Future[Any]:
        """See `Executor`."""
        return self._threads.submit(self._converse, task)

    def _converse(self, task: Task) -> Any:
        one = self._worker(task.near)
        try:
            result = one.carry_out(task, self.means.timeout, self.progress)
        except BaseException:
            self._end(one)
            raise
        if one.resident > self._largest:
            self._end(one)  # whatever leaked, the next task does not inherit
        else:
            with self._lock:
                self._idle.append(one)
        return result

    def _worker(self, near: str) -> _Worker:
        """One that has just used the same networks, or any that is idle, or a new one."""
        with self._lock:
            if self._closing:
                raise Lost("the run was stopped")
            for one in self._idle:
                if one.near == near:
                    self._idle.remove(one)
                    return one
            if not self._numbers and self._idle:
                return self._idle.pop(0)
            one = _Worker(self._context, self._job, self._numbers.pop())
            self._all.add(one)
            return one

    def _end(self, one: _Worker) -> None:
        """For the thread that talks to it: nobody else may hang up."""
        one.kill()
        one.hang_up()
        with self._lock:
            if one in self._all:
                self._all.discard(one)
                self._numbers.add(one.number)

    def close(self) -> None:
        """See `Executor`."""
        with self._lock:
            self._closing = True
            everybody = list(self._all)
        for one in everybody:
            one.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for one in self._all:  # the idle: nobody talks to them
            one.hang_up()


def _starting(job: Job) -> Any:
    """How processes start: where the system can copy processes, as copies of one that has loaded what all need."""
    copied = (
        "forkserver" in multiprocessing.get_all_start_methods() and sys.platform != "darwin"
    )  # whose GPU forbids it
    if not copied:
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([worker.__name__, *job.modules])
    with _threads_that_sleep(), _deaf_to_ctrl_c():
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def _threads_that_sleep() -> Iterator[None]:
    """In what is started in here, threads that wait leave the cores to others."""
    before = os.environ.get(WAITING)
    os.environ[WAITING] = "PASSIVE"
    try:
        yield
    finally:
        del os.environ[WAITING]
        if before is not None:
            os.environ[WAITING] = before


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """What is started in here never hears of Ctrl-C, which is for the driver."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # started later, it would lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker:
    """The driver's end of one process.

    Args:
        context: starts processes.
        job: pickled.
        number: from 0; says which GPU it uses.
    """

    def __init__(self, context: Any, job: bytes, number: int) -> None:
        self.number = number
        self.near = ""
        self.resident = 0
        self._line, theirs = context.Pipe()
        self._process = context.Process(
            target=worker.live, args=(theirs, one_gpu(number)), name=f"dpbench-worker-{number}"
        )
        with _threads_that_sleep(), _deaf_to_ctrl_c():
            self._process.start()
        theirs.close()
        self._started = False
        self._job = job

    def carry_out(self, task: Task, timeout: float | None, progress: Any) -> Any:
        """What the task came to.

        Raises:
            Lost: the process died, or took longer than `timeout` seconds.
        """
        self.near = task.near
        try:
            if not self._started:
                self._line.send_bytes(self._job)
                self._answer(task, None, progress)
                self._started = True
            self._line.send_bytes(pickle.dumps(task))
            return self._answer(task, timeout, progress)
        except (EOFError, OSError) as error:
            raise Lost(f"its process ended{self._in_words()}") from error

    def _answer(self, task: Task, timeout: float | None, progress: Any) -> Any:
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            if end is not None and not self._line.poll(max(0.0, end - time.monotonic())):
                raise Lost(f"it took longer than the time limit of {timeout:g} s; --timeout allows more")
            kind, content, self.resident = self._line.recv()
            if kind == "progress":
                progress(task, content)
            elif kind == "raised":
                raise content if isinstance(content, DpbenchError) else DpbenchError(str(content))
            else:
                return content

    def _in_words(self) -> str:
        self._process.join(5)
        status = self._process.exitcode
        if status is None:
            return ""
        if status < 0:
            try:
                return f": signal {-status} ({signal.Signals(-status).name})"
            except ValueError:
                return f": signal {-status}"
        return f": exit status {status}"

    def kill(self) -> None:
        """End it, and what it started, whatever they do; whoever waits for its answer hears that it has ended."""
        worker.kill(self._process.pid)
        self._process.kill()
        self._process.join()

    def hang_up(self) -> None:
        """Close the line to it: a thread that still read from it would read whatever is opened next."""
        self._line.close()
