"""The cache: made once by many, checked by content, listed, pruned."""

import json
import os
import threading
import time

import pytest
import torch

from dpbench.errors import DpbenchError
from dpbench.machine import cache as artefacts
from dpbench.machine.locks import Lock, held
from dpbench.machine.memory import parse_size


def make(value: float = 1.0):
    return {"x": torch.full((4,), value)}


def test_many_that_want_it_at_once_make_it_once(tmp_path):
    made = []

    def slowly():
        made.append(1)
        time.sleep(0.3)
        return make()

    said = []
    wanting = [
        threading.Thread(target=artefacts.remember, args=(tmp_path, "nets", "k" * 64, slowly, said.append))
        for _ in range(4)
    ]
    for one in wanting:
        one.start()
    for one in wanting:
        one.join()
    assert made == [1]
    assert said == ["waiting for nets, which another process makes"] * 3
    assert not list(tmp_path.glob("*/*.lock"))


def test_a_lock_is_one_process_s_and_is_gone_with_it(tmp_path):
    mine, other = Lock(tmp_path / "a.lock"), Lock(tmp_path / "a.lock")
    assert mine.take()
    assert not other.take()
    pid = os.fork()
    if pid == 0:
        taken = Lock(tmp_path / "b.lock").take()
        os._exit(0 if taken else 1)  # without releasing it
    assert os.waitpid(pid, 0)[1] == 0
    assert (tmp_path / "b.lock").exists()
    with held(tmp_path / "b.lock", lambda: pytest.fail("nobody holds it")):
        pass
    mine.release()
    assert other.take()
    other.release()
    assert list(tmp_path.iterdir()) == []


def test_provenance_lies_beside_and_damage_is_found(tmp_path, dpbench, monkeypatch):
    monkeypatch.setenv("DPBENCH_CACHE", str(tmp_path))
    artefacts.remember(tmp_path, "nets", "a" * 64, make, about={"seed": 3})
    artefacts.remember(tmp_path, "nets", "b" * 64, make)
    told = json.loads((tmp_path / "nets" / f"{'a' * 40}.json").read_text())
    assert told["about"] == {"seed": 3}
    assert told["seconds"] >= 0
    assert "2 artefacts" in dpbench("cache", "list").out
    assert len(json.loads(dpbench("cache", "list", "--json").out)) == 2
    assert dpbench("cache", "verify").status == 0
    damaged = tmp_path / "nets" / f"{'a' * 40}.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    outcome = dpbench("cache", "verify", "--remove")
    assert outcome.status == 1
    assert f"damaged: {damaged}" in outcome.out
    assert not damaged.exists()
    assert dpbench("cache", "verify").status == 0
    assert artefacts.remember(tmp_path, "nets", "a" * 64, lambda: make(2.0))["x"][0] == 2


def test_what_was_not_used_goes_first(tmp_path, dpbench, monkeypatch):
    monkeypatch.setenv("DPBENCH_CACHE", str(tmp_path))
    for name in "abc":
        artefacts.remember(tmp_path, "nets", name * 64, make)
        path = tmp_path / "nets" / f"{name * 40}.safetensors"
        os.utime(path, (1000 + ord(name), 1000 + ord(name)))
    artefacts.remember(tmp_path, "nets", "a" * 64, lambda: pytest.fail("it is there"))
    size = path.stat().st_size
    assert [one.path.name[0] for one in artefacts.kept(tmp_path)] == ["b", "c", "a"]
    assert "1 artefacts removed" in dpbench("cache", "prune", "--size", f"{2 * size}B").out
    assert [one.path.name[0] for one in artefacts.kept(tmp_path)] == ["c", "a"]
    assert "1 artefacts removed" in dpbench("cache", "prune", "--days", "1").out
    assert sorted(path.name[0] for path in (tmp_path / "nets").iterdir()) == ["a", "a"]
    assert dpbench("cache", "prune").status == 2


@pytest.mark.parametrize(("text", "size"), [("20GB", 2 * 10**10), ("1.5 mb", 1500000), ("7", 7)])
def test_sizes(text, size):
    assert parse_size(text) == size
    with pytest.raises(DpbenchError, match="is no size"):
        parse_size(text + "x")


def on_machine(name, tmp_path, monkeypatch):
    monkeypatch.setattr(artefacts.platformdirs, "user_cache_dir", lambda program: str(tmp_path / name))


def test_machines_share_what_they_make_by_a_url(tmp_path, monkeypatch):
    monkeypatch.setenv("DPBENCH_CACHE", f"file://{tmp_path}/bucket/dpbench")
    said = []

    def remembered(value):
        return artefacts.remember(artefacts.default_cache(), "nets", "k" * 64, lambda: make(value), said.append)["x"][0]

    on_machine("one", tmp_path, monkeypatch)
    assert remembered(1.0) == 1.0
    there = tmp_path / "bucket" / "dpbench" / "nets"
    assert sorted(path.suffix for path in there.iterdir()) == [".json", ".safetensors"]
    on_machine("two", tmp_path, monkeypatch)
    assert remembered(2.0) == 1.0
    assert [one.told["dpbench"] for one in artefacts.kept(artefacts.default_cache())]
    (there / f"{'k' * 40}.safetensors").write_bytes(b"damaged")
    assert remembered(3.0) == 1.0  # this machine has it
    assert said == []
    on_machine("three", tmp_path, monkeypatch)
    assert remembered(4.0) == 4.0
    assert len(said) == 1
    on_machine("four", tmp_path, monkeypatch)
    assert remembered(5.0) == 4.0


def test_a_url_that_does_not_answer_costs_work_alone_and_one_that_is_none_is_refused(tmp_path, monkeypatch):
    on_machine("one", tmp_path, monkeypatch)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DPBENCH_CACHE", f"file://{tmp_path}/file")
    said = []
    made = artefacts.remember(artefacts.default_cache(), "nets", "k" * 64, make, said.append)
    assert made["x"][0] == 1.0
    assert any("cannot be written" in line for line in said)
    monkeypatch.setenv("DPBENCH_CACHE", "nowhere://bucket")
    with pytest.raises(
        DpbenchError, match=r"^\$DPBENCH_CACHE 'nowhere://bucket' cannot be used: .*s3://bucket/folder$"
    ):
        artefacts.remember(artefacts.default_cache(), "nets", "k" * 64, make)
