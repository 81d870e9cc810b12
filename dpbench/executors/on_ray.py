"""Tasks on a cluster of machines, with Ray."""

from __future__ import annotations

import contextlib
import functools
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar

from dpbench.errors import DpbenchError, reason
from dpbench.executors.executor import Executor, Job, Lost, Means, Task, carry_out, settle

RETRIES = 2
"""How often a task is begun again elsewhere when its worker or its machine is lost."""

LOOK_SECONDS = 2.0
"""So often it is looked whether a worker that does not start yet is still wanted."""


class OnRay(Executor):
    """Workers on the machines of a Ray cluster, or of one that is started here; all need the cache and the folder."""

    name: ClassVar[str] = "ray"

    def __init__(self, job: Job, means: Means) -> None:
        super().__init__(job, means)
        self._ray = _ray()
        self._closing = False
        self._mine = not self._ray.is_initialized()
        if self._mine:
            try:
                self._ray.init(address=means.address or None, log_to_driver=False, include_dashboard=False)
            except Exception as error:  # whatever Ray says
                where = f" at --address {means.address}" if means.address else ""
                raise DpbenchError(f"--executor ray: no cluster{where}: {reason(error)}") from error
        resources = self._ray.cluster_resources()
        self._gpus = int(resources.get("GPU", 0))
        cores = means.threads or 1
        self.places = means.workers or self._gpus or max(1, int(resources.get("CPU", 1)) // cores)
        self._job = self._ray.put(job)
        self._kind = self._ray.remote(num_cpus=cores, num_gpus=1 if self._gpus else 0, max_restarts=0)(_Actor)
        self._cores = cores
        self._idle: list[tuple[Any, str]] = []
        self._all: list[Any] = []
        self._changed = threading.Condition()
        self._threads = ThreadPoolExecutor(self.places, "dpbench-ray")

    def submit(self, task: Task) -> Future[Any]:
        """See `Executor`."""
        return self._threads.submit(self._converse, task)

    def _converse(self, task: Task) -> Any:
        errors = self._ray.exceptions
        lost: list[str] = []
        while len(lost) <= RETRIES:
            actor = self._actor(task.near)
            try:
                if not self._has_started(actor):
                    self._end(actor)
                    continue
                result = self._ray.get(actor.carry_out.remote(task), timeout=self.means.timeout)
            except errors.GetTimeoutError as error:
                self._end(actor)
                limit = self.means.timeout
                raise Lost(f"it took longer than the time limit of {limit:g} s; --timeout allows more") from error
            except errors.RayTaskError as error:
                self._end(actor)
                cause = error.cause
                raise cause if isinstance(cause, DpbenchError) else DpbenchError(reason(cause)) from error
            except errors.RayError as error:  # the worker or its machine is gone
                lost.append(reason(error))
                self._end(actor)
                continue
            with self._changed:
                self._idle.append((actor, task.near))
                self._changed.notify()
            return result
        raise Lost(f"its worker was lost {len(lost)} times: {lost[-1][:200]}")

    def _has_started(self, actor: Any) -> bool:
        """Wait for a worker; False where there may be no room for it any more, and another one is free."""
        ready = actor.ready.remote()
        while not self._ray.wait([ready], timeout=LOOK_SECONDS)[0]:
            with self._changed:
                if self._closing or self._idle or len(self._all) > self._room():
                    return False
        self._ray.get(ready)
        return True

    def _actor(self, near: str) -> Any:
        """One that has just used the same networks, or a new one, or any that is idle, once there is one."""
        with self._changed:
            while not self._closing:
                same = next((one for one in self._idle if one[1] == near), None)
                if same is None and len(self._all) >= self._room() and self._idle:
                    same = self._idle[0]
                if same is not None:
                    self._idle.remove(same)
                    return same[0]
                if len(self._all) < self._room():
                    actor = self._kind.remote(self._job)
                    self._all.append(actor)
                    return actor
                self._changed.wait(1)
        raise Lost("the run was stopped")

    def _room(self) -> int:
        """How many workers the cluster has room for as it is now."""
        now = self._ray.cluster_resources()
        by_gpu = int(now.get("GPU", 0)) if self._gpus else self.places
        return max(1, min(self.places, by_gpu, int(now.get("CPU", 1)) // self._cores))

    def _end(self, actor: Any) -> None:
        with contextlib.suppress(Exception):  # it may be gone
            self._ray.kill(actor)
        with self._changed:
            if actor in self._all:
                self._all.remove(actor)
            self._changed.notify()

    def close(self) -> None:
        """See `Executor`."""
        self._closing = True
        for actor in list(self._all):
            self._end(actor)
        self._threads.shutdown(wait=True, cancel_futures=True)
        if self._mine:
            self._ray.shutdown()


class _Actor:
    """A worker on some machine."""

    def __init__(self, job: Job) -> None:
        settle(job)

    def ready(self) -> None:
        """Answers once it is there."""

    def carry_out(self, task: Task) -> Any:
        """See `carry_out`."""
        return carry_out(task)


@functools.cache
def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise DpbenchError("--executor ray needs Ray, which is not installed: pip install 'ray>=2.9'") from error
    return ray
