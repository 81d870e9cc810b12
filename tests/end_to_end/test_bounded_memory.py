"""Memory is bounded: by the size of batches and not by the number of images, and running out of it is survived."""

import json
import sys

import pytest
from peak_memory import assert_bounded_in_images, small_suite
from tiny_suite import tiny_suite

from dpbench.machine import memory
from dpbench.records import store

EVERY_KIND_OF_ATTACK = (
    *("mean-image", "random-image", "class-mean", "nearest-auxiliary"),
    {"name": "decoder", "steps": 3, "width": 16, "blocks": 1},
    {
        **{"name": "rmle", "steps": 2, "total_variation": 0.1, "nearness": 0},
        **{"decoder_steps": 3, "decoder_width": 16, "decoder_blocks": 1},
    },
    {
        **{"name": "gan", "training_steps": 2, "width": 8},
        **{"search_steps": 1, "refine_steps": 1, "pool": 64},
    },
)

DEFENSES = ("none", "clipped-gaussian", "dropout", {"name": "dpm", "epochs": 1})

PLUGINS = '''
import torch
from pydantic import Field
from dpbench import Attack, Defense, ProtectedModel


class Hungry(Attack):
    """Runs out of memory above a batch of `fits`, having drawn numbers; what it returns depends on the batch."""

    name = "hungry"
    needs = "query"
    fits: int = Field(128, ge=0)

    def reconstruct(self, seen, *, generator):
        noise = torch.rand(len(seen.released), *seen.image_shape, generator=generator)
        seen.granted_query()(noise)
        seen.notes["batch"] = seen.batch_size
        if seen.batch_size > self.fits:
            seen.notes["failed"] = True
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")
        return (noise + 1 / seen.batch_size) / 2


class Starving(Defense):
    """Runs out of memory in its fit above a batch of 64."""

    name = "starving"

    def build(self, split):
        return ProtectedModel(split)

    def fit(self, model, private, *, generator, progress):
        if private.batch_size > 64:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
'''


@pytest.fixture
def plugins(tmp_path):
    path = tmp_path / "plugins.py"
    path.write_text(PLUGINS)
    return path


def suite(tmp_path, text):
    path = tmp_path / "suite.toml"
    path.write_text(text)
    return path


def figures(run_dir):
    """Everything that has been measured, by cell."""
    drop = {"seconds", "client_ms", "peak_memory_mb", "memory", "created"}
    records = store.CELLS.all(run_dir)
    return {record.id: record.model_dump(exclude=drop) for record in records}


def test_what_is_streamed_gives_the_figures_of_what_fits(tmp_path, dpbench, monkeypatch):
    images = {"image_size": 16, "private": 130, "auxiliary": 150, "test": 100}
    more = {"victims": 6, "releases": 2, "threat_models": ["weights"]}
    path = suite(tmp_path, tiny_suite(DEFENSES, EVERY_KIND_OF_ATTACK, dataset=images, **more))

    def fresh(name):
        monkeypatch.setenv("DPBENCH_CACHE", str(tmp_path / f"cache-{name}"))
        assert dpbench("run", path, "--device", "cpu", "--output", tmp_path / name).status == 0
        return figures(tmp_path / name)

    held = fresh("held")
    assert len(held) == 4 + len(DEFENSES) * 3  # floors are measured once
    monkeypatch.setattr(memory, "room", lambda device: 0)
    for module in ("cells.pipeline", "cells.prepare", "metrics.recognition"):
        monkeypatch.setattr(f"dpbench.{module}.room", lambda device: 0)
    assert fresh("streamed") == held


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_does_not_grow_with_the_images(tmp_path):
    assert_bounded_in_images(tmp_path, few=520, many=1720)  # tests/benchmarks/test_peak_memory.py: many more


def test_out_of_memory_halves_the_batch_and_goes_on(tmp_path, dpbench, plugins):
    path = suite(tmp_path, small_suite(70, f"{plugins}:Hungry"))

    def run(name, batch_size):
        outcome = dpbench("run", path, "--device", "cpu", "--output", tmp_path / name, "--batch-size", batch_size)
        assert outcome.status == 0, outcome.out
        (record,) = store.CELLS.all(tmp_path / name)
        return record

    halved, small = run("halved", "512"), run("small", "128")
    assert (halved.memory.batch_size, halved.memory.halved) == (128, 2)
    assert (small.memory.batch_size, small.memory.halved) == (128, 0)
    assert halved.memory.peak_bytes > 2**20
    assert halved.notes == {"batch": 128}
    assert figures(tmp_path / "halved") == figures(tmp_path / "small")  # and the cell's id says nothing of the batch


def test_a_fit_that_runs_out_of_memory_is_halved_for_every_cell(tmp_path, dpbench, plugins):
    path = suite(tmp_path, small_suite(70, "mean-image", "random-image", defense=f"{plugins}:Starving"))
    assert dpbench("run", path, "--device", "cpu", "--output", tmp_path / "run").status == 0
    records = list(store.CELLS.all(tmp_path / "run"))
    assert [record.memory.batch_size for record in records] == [64] * len(records)
    assert {record.status for record in records} == {"ok"}


def test_out_of_memory_with_one_image_is_a_failed_row(tmp_path, dpbench, plugins):
    path = suite(tmp_path, small_suite(70, "mean-image", {"name": f"{plugins}:Hungry", "fits": 0}))
    outcome = dpbench("run", path, "--device", "cpu", "--output", tmp_path / "run", "--batch-size", "4")
    assert outcome.status == 1
    by_attack = {record.cell.attack.name: record for record in store.CELLS.all(tmp_path / "run")}
    assert by_attack.pop("mean-image").status == "ok"
    (failed,) = by_attack.values()
    assert failed.status == "failed"
    assert failed.error.startswith("out of memory even with one image at a time (")
    assert "OutOfMemoryError: CUDA out of memory" in failed.error
    assert (failed.memory.batch_size, failed.memory.halved) == (1, 2)


@pytest.mark.parametrize("size", ["0", "-3", "abc", "1.5"])
def test_a_batch_size_that_is_none_is_one_line(dpbench, tmp_path, size):
    outcome = dpbench("run", "smoke", "--output", tmp_path / "run", f"--batch-size={size}")
    assert outcome.status == 2
    assert outcome.err.splitlines() == [
        f"dpbench: --batch-size {size} is not usable; expected auto or a whole number of images, 1 or more"
    ]
    assert not (tmp_path / "run").exists()


def test_records_of_before_are_read(tmp_path, dpbench):
    path = suite(tmp_path, small_suite(70, "mean-image"))
    assert dpbench("run", path, "--device", "cpu", "--output", tmp_path / "run").status == 0
    (file,) = (tmp_path / "run" / "records").glob("*.json")
    record = json.loads(file.read_text())
    assert record["memory"].keys() == {"batch_size", "halved", "peak_bytes"}
    del record["memory"], record["digest"]
    record["schema_version"] = 2
    file.write_text(json.dumps(record))
    assert store.CELLS.read(file).memory is None
