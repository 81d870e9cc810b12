"""Worker processes: what ends in one costs its own task only, and nothing outlives the run."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest
from jobs import Behaving

from dpbench.errors import DpbenchError
from dpbench.executors import processes
from dpbench.executors.executor import Lost, Means, Task
from dpbench.executors.processes import Processes


@pytest.fixture
def start():
    started = []

    def make(**means):
        started.append(Processes(Behaving(), Means(**means)))
        return started[-1]

    yield make
    for one in started:
        one.close()


def task(unit: str, near: str = "") -> Task:
    return Task(f"t {unit}", unit, near=near)


def gone(pid: int) -> bool:
    """Whether a process has ended, or does so soon."""
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_a_run_that_is_stopped_hangs_up_on_each_worker_once(start, monkeypatch):
    hang_up = Connection._close
    closed = []

    def slowly(self):
        closed.append(self)
        time.sleep(0.2)  # a second that closes meanwhile finds nothing there, or another's line
        hang_up(self)

    executor = start(workers=4)
    idle = executor.submit(task("worker")).result()
    futures = [executor.submit(task("sleep 60")) for _ in range(3)]
    while executor._idle:
        time.sleep(0.01)
    pids = [one._process.pid for one in executor._all]
    monkeypatch.setattr(Connection, "_close", slowly)
    executor.close()
    assert idle in pids
    assert all(gone(pid) for pid in pids)
    assert len(closed) == len(set(map(id, closed)))
    for future in futures:
        assert isinstance(future.exception(), Lost)


def test_ctrl_c_does_not_meet_a_worker_that_starts(start, monkeypatch, capfd):
    begin = processes._Worker.__init__

    def interrupted(self, *given):
        begin(self, *given)
        for _ in range(3):  # as a terminal sends it to all that run in it
            os.kill(self._process.pid, signal.SIGINT)
            time.sleep(0.01)

    monkeypatch.setattr(processes._Worker, "__init__", interrupted)
    executor = start(workers=1)
    pid = executor.submit(task("worker")).result()
    assert executor.submit(task("worker")).result() == pid
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert capfd.readouterr().err == ""


def test_a_death_a_hang_and_an_error_cost_their_own_task_alone(start):
    executor = start(workers=1, timeout=1.5)
    said = []
    executor.progress = lambda task, text: said.append(text)
    first = executor.submit(task("worker")).result()
    for unit, words in (
        ("signal SIGSEGV", r"its process ended: signal 11 \(SIGSEGV\)"),
        ("signal SIGKILL", r"signal 9 \(SIGKILL\)"),
        ("exit 3", "exit status 3"),
        ("sleep 60", r"longer than the time limit of 1.5 s; --timeout"),
    ):
        with pytest.raises(Lost, match=words):
            executor.submit(task(unit)).result()
    with pytest.raises(DpbenchError, match=r"^no such thing$"):
        executor.submit(task("raise no such thing")).result()
    with pytest.raises(DpbenchError, match="KeyError"):
        executor.submit(task("bug x")).result()
    assert executor.submit(task("worker")).result() != first
    assert gone(first)
    assert said[0] == "at t worker"


def test_a_worker_goes_on_with_what_is_near_to_what_it_did(start):
    executor = start(workers=2)
    tasks = [executor.submit(task("sleep 0.3", near=name)) for name in "ab"]
    assert [one.result() for one in tasks] == ["sleep 0.3"] * 2
    workers = [executor.submit(task("worker", near=name)).result() for name in "ababba"]
    assert len(set(workers)) == 2
    assert workers == [workers[place] for place in (0, 1, 0, 1, 1, 0)]


def test_one_that_has_grown_is_replaced(start, monkeypatch):
    executor = start(workers=1)
    monkeypatch.setattr(executor, "_largest", 1)
    assert executor.submit(task("worker")).result() != executor.submit(task("worker")).result()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are copied")
def test_what_a_task_started_ends_with_its_worker(start):
    executor = start(workers=1)
    child, parent = executor.submit(task("child")).result(), executor.submit(task("worker")).result()
    waiting = executor.submit(task("sleep 60"))
    time.sleep(0.2)
    executor.close()
    assert gone(child)
    assert gone(parent)
    with pytest.raises(Lost):
        waiting.result()


def test_workers_end_with_a_driver_that_is_killed(tmp_path):
    code = f"""
import sys; sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}
from dpbench.executors.executor import Means, Task
from dpbench.executors.processes import Processes
from jobs import Behaving
if __name__ == "__main__":
    executor = Processes(Behaving(), Means(workers=1))
    print(executor.submit(Task("a", "worker")).result(), flush=True)
    executor.submit(Task("b", "sleep 60")).result()
"""
    file = tmp_path / "driver.py"
    file.write_text(code)
    with subprocess.Popen([sys.executable, file], stdout=subprocess.PIPE, text=True) as driver:
        worker = int(driver.stdout.readline())
        driver.kill()
        assert gone(worker)
