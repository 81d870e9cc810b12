"""What a process of a run is told and does, and the driver that gives out tasks and alone writes records."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic

import torch

from dpbench.errors import debug, is_interrupt, reason, traced
from dpbench.executors.executor import Executor, Job, Lost, Progress, Task
from dpbench.executors.stages import Stages
from dpbench.executors.times import Spent, Trace
from dpbench.machine import plugin_files
from dpbench.machine.devices import choose_device, compile_loops, compute_exactly
from dpbench.machine.locks import Lock
from dpbench.machine.writing import Unwritable
from dpbench.records.record_files import readable
from dpbench.running.protocol import Lab, Plan, R
from dpbench.running.tasks import MAKING, taken_by, tasks_of
from dpbench.running.unit import U
from dpbench.running.watching import State, Watcher

CLAIMS = ".claims"
"""Folder of a run directory with a lock for each unit that is being measured."""

AGAIN_SECONDS = 0.5
"""So often it is looked whether another run has measured what it has claimed."""


@dataclass(frozen=True)
class RunJob(Job):
    """A suite on one kind of device, for whoever measures its units.

    Attributes:
        plan: of the suite.
        device: auto, cpu, cuda or mps.
        cache: fitted networks and decoded images.
        batch_size: at most so many images in a network at once.
        audit: every plug-in runs in processes of its own.
        threads: that compute; None: as this process has them.
        folder: paths are relative to it.
        compiled: optimisation loops are, see `dpbench.machine.devices.compiled`.
    """

    plan: Plan[Any, Any]
    device: str
    cache: Path
    batch_size: int | None
    audit: bool
    threads: int | None
    folder: str
    compiled: bool = False

    @property
    def modules(self) -> tuple[str, ...]:
        """See `Job`."""
        return __name__, type(self.plan.protocol).__module__

    def lab(self) -> Lab[Any]:
        """What measures units."""
        return self.plan.protocol.lab(choose_device(self.device), self.cache, self.batch_size, audit=self.audit)

    def start(self) -> Callable[[Task, Progress], Any]:
        """See `Job`."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        compute_exactly()
        with contextlib.suppress(OSError):
            os.chdir(self.folder)
        return functools.partial(work, self.lab(), self.plan, compiling=self.compiled)

    def sent(self) -> Job:
        """Without what only the driver needs to know."""
        job = replace(self, plan=replace(self.plan, units=[], finished={}, changed=(), remarks=()))
        of_file = plugin_files.loaded_from(type(self.plan.protocol).__module__)
        return job if of_file is None else FromFile(of_file.path, pickle.dumps(job))


@dataclass(frozen=True)
class FromFile(Job):
    """A job whose classes are those of a protocol in a file of its own.

    Attributes:
        path: of the file, which a process loads before it reads the job.
        job: pickled.
    """

    path: Path
    job: bytes

    def start(self) -> Callable[[Task, Progress], Any]:
        """See `Job`."""
        plugin_files.load(self.path)
        job: Job = pickle.loads(self.job)
        return job.start()


def work(lab: Lab[U], plan: Plan[U, Any], task: Task, progress: Progress, *, compiling: bool = False) -> dict[str, Any]:
    """Fields of the record of a task's unit that say what came out; none where the task makes what units share.

    Raises:
        DpbenchError: no unit could go on: data that cannot be read, a full disk.
    """
    unit = task.unit
    compile_loops(compiling)
    lab.enter(unit, progress)
    stages = Stages(lab.device)
    try:
        if task.makes:
            with stages(task.makes):
                lab.make(unit, task.makes, progress)
            return {"seconds": stages.seconds}
        measured = {"status": "ok", **lab.measure(unit, plan, stages, progress)}
    except Unwritable:
        raise  # nothing else could be kept either
    except BaseException as error:  # a plug-in may call sys.exit
        if is_interrupt(error):
            raise
        debug(error)
        # what cannot be made fails those that need it, each with this reason
        measured = {"status": "failed", "error": reason(error), "notes": {"traceback": traced(error)}}
    return {**measured, **lab.spent(stages)}


class Driver(Generic[U, R]):
    """Gives out what is left of a plan, and writes a record of each unit the moment it is done.

    Args:
        job: the run.
        executor: carries out its tasks.
        environment: of every record.
        watcher: follows the run.
        trace: follows where the time goes.
        known: kind of a task -> what one of it took in earlier runs.

    Attributes:
        spent: what was measured or made took, by kind.
    """

    def __init__(
        self,
        job: RunJob,
        executor: Executor,
        environment: dict[str, Any],
        watcher: Watcher[U, R],
        trace: Trace | None = None,
        known: Mapping[str, Spent] | None = None,
    ) -> None:
        self.job = job
        self.plan: Plan[U, R] = job.plan
        self.executor = executor
        self.lab = job.lab()
        self.environment = environment
        self.watcher = watcher
        several = executor.places > 1
        self.graph = tasks_of(self.plan.protocol, self.plan.left, shared=several, known=known)
        self.began = _now()
        self.running: dict[Future[Any], Task] = {}
        self.claims: dict[str, Lock] = {}
        self.records: dict[str, R] = {}
        self.hopeless: dict[str, str] = {}
        self.trace = trace
        self.spent: dict[str, Spent] = {}
        executor.progress = lambda task, text: watcher.progress(text, task.unit)

    def run(self) -> Iterator[R]:
        """The records of what was left, as they come."""
        try:
            while True:
                elsewhere: list[Task] = []
                yield from self._fill(elsewhere)
                if self.running:
                    done, _ = wait(self.running, AGAIN_SECONDS if elsewhere else None, FIRST_COMPLETED)
                    for future in done:
                        yield from self._finished(self.running.pop(future), future)
                elif elsewhere:
                    time.sleep(AGAIN_SECONDS)
                else:
                    return
                for task in elsewhere:
                    self.graph.put_back(task)
        finally:
            for claim in self.claims.values():
                claim.release()
            with contextlib.suppress(OSError):
                (self.plan.output / CLAIMS).rmdir()

    def _fill(self, elsewhere: list[Task]) -> Iterator[R]:
        """Give out tasks while there is room; units that another run has claimed are put aside."""
        while len(self.running) < self.executor.places:
            task = self.graph.next(self.running.values(), elsewhere)
            if task is None:
                return
            if not task.makes and not self._claim(task):
                elsewhere.append(task)
                continue
            found = None if task.makes else self._found(task.unit)
            if found is not None:
                yield self._closed(task, found, "cached")
            elif task.id in self.hopeless:
                yield self._stored(task, self._record(task.unit), {"error": self.hopeless[task.id]})
            else:
                yield from self._given_out(task)

    def _given_out(self, task: Task) -> Iterator[R]:
        if not task.makes:
            self.watcher.started(task.unit)
            self.records[task.id] = self._record(task.unit)
        if self.trace is not None:
            self.trace.begin(task)
        future = self.executor.submit(task)
        if future.done():
            yield from self._finished(task, future)
        else:
            self.running[future] = task

    def _claim(self, task: Task) -> bool:
        claim = Lock(self.plan.output / CLAIMS / f"{task.id}.lock")
        taken = claim.take()
        if taken:
            self.claims[task.id] = claim
        return taken

    def _found(self, unit: U) -> R | None:
        """The record that another run has written of a unit since this one was planned."""
        protocol = self.plan.protocol
        for record in readable([protocol.store.path(self.plan.output, unit.id)], protocol.store.read):
            newer = record.status == "ok" or record.created > self.began
            if newer and record.id == unit.id and protocol.is_finished(record, unit, audit=self.job.audit):
                return record  # type: ignore[no-any-return]
        return None

    def _record(self, unit: U) -> R:
        kind = self.plan.protocol.store.kind
        record: R = kind(
            **{kind.UNIT: unit},
            id=unit.id,
            suite=self.plan.name,
            status="failed",
            environment=self.environment,
            created=_now(),
            **self.lab.describe(unit, self.plan),
        )
        return record

    def _finished(self, task: Task, future: Future[Any]) -> Iterator[R]:
        try:
            measured = future.result()
        except Lost as error:
            measured = {"error": str(error)}
            if task.makes:  # those that need it would go the same way
                waiting = [one.id for one in self.graph.waiting_for(task) if not one.makes]
                self.hopeless |= dict.fromkeys(waiting, f"{task.makes}: {error}")
        if self.trace is not None:
            self.trace.end(task, measured.get("seconds", {}))
        if task.makes:
            for name, seconds in measured.get("seconds", {}).items():
                self._spend(MAKING.format(name), Spent(1, seconds))
            self.graph.done(task)
            self.watcher.progress("", task.unit)
        else:
            yield self._stored(task, self.records.pop(task.id), measured)

    def _stored(self, task: Task, record: R, measured: dict[str, Any]) -> R:
        # not validated here: what cannot be is left out, with the reason, when it is stored
        record = record.model_copy(update=measured)
        stored: R = self.plan.protocol.store.write(self.plan.output, record)  # last: its pictures are there
        self._count(stored)
        return self._closed(task, stored, stored.status)

    def _count(self, record: R) -> None:
        """What measuring it took, for estimates of later runs."""
        if record.status == "ok":
            self._spend(self.plan.protocol.kind_of(record.unit_measured), taken_by(record, self.plan))

    def _spend(self, kind: str, one: Spent) -> None:
        self.spent[kind] = self.spent.get(kind, Spent()) + one

    def _closed(self, task: Task, record: R, state: State) -> R:
        self.graph.done(task)
        self.claims.pop(task.id).release()
        self.watcher.finished(task.unit, state, record)
        return record


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
