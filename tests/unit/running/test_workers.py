"""Many workers: the figures of one, nothing made twice, and what dies is a failed row."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from conftest import environment
from parsing import parse_suite
from tiny_suite import SUITE

from dpbench.api import plan
from dpbench.executors.executor import Means
from dpbench.running.runner import _in_full, execute

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "dpbench" / "guide" / "writing-an-executor.md"

GRID = (
    SUITE.replace("victims = 4", 'victims = 4\nthreat_models = ["static", "query"]')
    .replace("private = 256", "private = 64")
    .replace("auxiliary = 128", "auxiliary = 64")
    .replace("test = 64", "test = 32")
    .replace("resnet14t", "mobilenetv3_small_050")
    + """
[[defenses]]
name = "dpm"
epochs = 1
[[attacks]]
name = "decoder"
steps = 8
"""
)
CELLS = 4

HANGS = """
import time
from dpbench import Attack

class Hangs(Attack):
    name = "hangs"
    needs = "nothing"

    def reconstruct(self, seen, *, generator):
        seen.progress("hanging")
        time.sleep(120)
"""


def figures(records):
    """What was measured, by cell: all but times, memory and the machine."""
    apart = {"seconds", "peak_memory_mb", "memory", "created", "environment"}
    return {record.id: record.model_dump(exclude=apart) for record in records}


def run(suite: str, output: Path, watcher=None, **means):
    planned = plan(parse_suite(suite, origin="test"), output=output)
    return execute(planned, device="cpu", watcher=watcher, means=Means(**means))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The records of one worker, from a cold cache."""
    patch = pytest.MonkeyPatch()
    patch.setenv("DPBENCH_CACHE", str(tmp_path_factory.mktemp("cold")))
    yield run(GRID, tmp_path_factory.mktemp("one"), workers=1)
    patch.undo()


def test_two_workers_give_the_figures_of_one(one, tmp_path, monkeypatch):
    monkeypatch.setenv("DPBENCH_CACHE", str(tmp_path / "cache"))
    both = run(GRID, tmp_path / "run", workers=2)
    assert [record.status for record in both] == ["ok"] * CELLS, [record.error for record in both]
    assert [record.id for record in both] == [record.id for record in one]
    assert figures(both) == figures(one)
    assert {record.environment["threads"] for record in both} == {1}
    assert not (tmp_path / "run" / ".claims").exists()
    assert not list((tmp_path / "cache").glob("*/*.lock"))


def test_the_executor_of_the_guide_gives_them_too(one, tmp_path):
    (code,) = re.findall(r"^```python\n# pool.py\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert len(code.splitlines()) < 30
    file = tmp_path / "pool.py"
    file.write_text(code)
    assert figures(run(GRID, tmp_path / "run", workers=2, executor=f"{file}:Pool")) == figures(one)


class Killer:
    """Kills the first worker that attacks; counts what finishes."""

    def __init__(self):
        self.killed = 0

    def started(self, unit):
        pass

    def progress(self, text):
        if text == "hanging" and not self.killed:
            self.killed = 1
            for process in psutil.Process().children():
                if "spawn_main" in " ".join(process.cmdline()):
                    process.kill()

    def finished(self, unit, state, record):
        pass


@pytest.fixture
def hanging(tmp_path) -> str:
    (tmp_path / "hangs.py").write_text(HANGS)
    return SUITE + f'[[attacks]]\nname = "{tmp_path}/hangs.py:Hangs"\n[[attacks]]\nname = "random-image"\n'


def test_what_the_user_left_open_is_filled_in(tmp_path):
    planned = plan(parse_suite("timeout = 12\n" + SUITE, origin="test"), output=tmp_path)
    cpu = torch.device("cpu")
    assert _in_full(Means(), cpu, planned) == Means(timeout=12)
    assert _in_full(Means(timeout=3, workers=4), cpu, planned) == Means(timeout=3, workers=4, threads=1)
    assert _in_full(Means(executor="pool.py:Pool", threads=2), cpu, planned).threads == 2
    untimed = plan(parse_suite(SUITE, origin="test"), output=tmp_path)
    assert [cell.id for cell in planned.units] == [cell.id for cell in untimed.units]


def test_a_worker_that_is_killed_costs_its_cell(hanging, tmp_path):
    records = run(hanging, tmp_path / "run", watcher=Killer(), workers=1, executor="processes")
    assert [record.status for record in records] == ["ok", "failed", "ok"]
    assert "signal 9 (SIGKILL)" in records[1].error


def command(suite: Path, output: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "dpbench", "run", str(suite), "--device", "cpu", "--output", str(output), *more]


def test_two_runs_in_one_folder_measure_each_cell_once(tmp_path):
    suite = tmp_path / "suite.toml"
    suite.write_text(GRID)
    runs = [
        subprocess.Popen(command(suite, tmp_path / "run"), stdout=subprocess.PIPE, text=True, env=environment(tmp_path))
        for _ in range(2)
    ]
    said = [one.communicate()[0] for one in runs]
    assert [one.returncode for one in runs] == [0, 0]
    measured = re.findall(r"^\[\d+/4\] +[\d.]+ s ", "\n".join(said), flags=re.MULTILINE)
    assert len(measured) == CELLS
    made = [path.name for path in tmp_path.glob("*/*.safetensors")]
    assert len(made) == len(set(made)) > 5


def test_ctrl_c_leaves_no_orphans(hanging, tmp_path, cache):
    suite = tmp_path / "suite.toml"
    suite.write_text(hanging)
    started = command(suite, tmp_path / "run", "--workers", "2")
    listening = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # ignored in a shell's background
    with subprocess.Popen(
        started, env=environment(cache), stderr=subprocess.PIPE, text=True, preexec_fn=listening
    ) as driver:
        everybody: set[psutil.Process] = set()
        while not any("guest" in " ".join(one.cmdline()) for one in everybody if one.is_running()):
            everybody |= set(psutil.Process(driver.pid).children(recursive=True))
            time.sleep(0.2)
        time.sleep(1)
        everybody |= set(psutil.Process(driver.pid).children(recursive=True))
        os.kill(driver.pid, signal.SIGINT)
        assert "interrupted" in driver.communicate()[1]
        assert driver.returncode == 130
    _, left = psutil.wait_procs(everybody, timeout=10)
    assert left == []


def test_shares_fill_one_run_directory(tmp_path, dpbench):
    suite = tmp_path / "suite.toml"
    suite.write_text(GRID.replace("decoder", "nearest-auxiliary").replace("steps = 8\n", ""))
    for place in (1, 2):
        outcome = dpbench("run", suite, "--device", "cpu", "--output", tmp_path / "run", "--shard", f"{place}/2")
        assert outcome.status == 0, outcome.err
    records = [json.loads(path.read_text()) for path in (tmp_path / "run" / "records").glob("*.json")]
    assert f"0 of {len(records)} cells to run" in dpbench("run", suite, "--output", tmp_path / "run").out
    outcome = dpbench("run", suite, "--shard", "3/2")
    assert (outcome.status, len(outcome.err.splitlines())) == (2, 1)
