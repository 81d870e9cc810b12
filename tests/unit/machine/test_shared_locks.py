"""Locks between machines that share a URL: one makes it, and with its end the lock is free."""

import subprocess
import sys
import threading
import time

import fsspec
import pytest
import torch

from dpbench.machine import cache as artefacts
from dpbench.machine import locks
from dpbench.machine.locks import SharedLock, held

HOLDER = """
import sys, time, fsspec
from dpbench.machine.locks import SharedLock
assert SharedLock(fsspec.filesystem("file"), sys.argv[1]).take()
print("taken", flush=True)
time.sleep(60)
"""


@pytest.fixture
def bucket():
    files = fsspec.filesystem("memory")
    files.makedirs("/bucket", exist_ok=True)
    yield files
    files.rm("/bucket", recursive=True)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(locks, "LEASE_SECONDS", 0.3)


def test_machines_that_want_it_at_once_make_it_once(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("DPBENCH_CACHE", "memory://bucket/dpbench")
    monkeypatch.setattr(artefacts, "SHARED_POLL_SECONDS", 0.05)
    monkeypatch.setattr(artefacts, "default_cache", lambda: tmp_path / threading.current_thread().name)
    made, got, said = [], {}, []

    def slowly():
        made.append(threading.current_thread().name)
        time.sleep(0.3)
        return {"x": torch.ones(3)}

    def machine():
        place = artefacts.default_cache()
        got[place.name] = artefacts.remember(place, "nets", "k" * 64, slowly, said.append)["x"]

    machines = [threading.Thread(target=machine, name=name) for name in ("one", "two", "three")]
    for one in machines:
        one.start()
    for one in machines:
        one.join()
    assert len(made) == 1
    assert [torch.equal(got[one.name], torch.ones(3)) for one in machines] == [True] * 3
    assert said == ["waiting for nets, which another machine makes"] * 2
    assert [path.rsplit(".")[-1] for path in sorted(bucket.find("/bucket"))] == ["json", "safetensors"]


def test_a_lock_goes_on_while_its_owner_lives(bucket, quick):
    mine, other = SharedLock(bucket, "/bucket/a.lock"), SharedLock(bucket, "/bucket/a.lock")
    assert mine.take()
    until = time.monotonic() + 0.6
    while time.monotonic() < until:
        assert not other.take()
        time.sleep(0.02)
    mine.release()
    assert other.take()
    mine.release()  # no longer its own
    assert bucket.exists("/bucket/a.lock")
    other.release()
    assert not bucket.exists("/bucket/a.lock")


def test_a_lock_of_a_process_that_was_killed_is_free_after_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "LEASE_SECONDS", 0.3)
    name = str(tmp_path / "a.lock")
    with subprocess.Popen([sys.executable, "-c", HOLDER, name], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "taken\n"
        assert not SharedLock(fsspec.filesystem("file"), name).take()
        holder.kill()
    waited = []
    with held(SharedLock(fsspec.filesystem("file"), name), lambda: waited.append(1), poll=0.05):
        assert waited == [1]
    assert list(tmp_path.iterdir()) == []


class Overwriting(dict):
    """A file system that knows no exclusive creation, and says so, or does not."""

    says = None

    def pipe_file(self, name, value, mode):
        if self.says is not None:
            raise self.says
        self[name] = value

    def cat_file(self, name):
        return self[name]


@pytest.mark.parametrize("says", [NotImplementedError(), ValueError("mode"), None])
def test_without_exclusive_creation_everybody_is_let_through(says):
    files = Overwriting()
    files.says = says
    assert SharedLock(files, "a").take()
    assert SharedLock(files, "a").take()
