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
from command_line import environment
from drivers import run, several
from parsing import parse_suite
from tiny_suite import SUITE

from dpbench.api import plan
from dpbench.executors.executor import Means
from dpbench.executors.known import find_executor
from dpbench.running.runner import _in_full
from dpbench.testing import check_executor

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "dpbench" / "guide" / "writing-an-executor.md"

SMALL = (
    SUITE.replace("private = 256", "private = 64")
    .replace("auxiliary = 128", "auxiliary = 64")
    .replace("test = 64", "test = 32")
    .replace("resnet14t", "mobilenetv3_small_050")
)

GRID = (
    SMALL.replace("victims = 4", 'victims = 4\nthreat_models = ["static", "query"]')
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

MORE = 1.5
"""CPU seconds of two runs that do the work of one, at most: both plan, trace networks and read what was made."""

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
    apart = {"seconds", "client_ms", "peak_memory_mb", "memory", "created", "environment"}
    return {record.id: record.model_dump(exclude=apart) for record in records}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one driver with one worker gives, from a cold cache."""
    return next(several(1, GRID, tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("cold")))


@pytest.fixture(scope="module")
def one(alone):
    """The records of one worker."""
    return alone[0]


def test_two_workers_give_the_figures_of_one(one, tmp_path, monkeypatch):
    monkeypatch.setenv("DPBENCH_CACHE", str(tmp_path / "cache"))
    both = run(GRID, tmp_path / "run", workers=2)
    assert [record.status for record in both] == ["ok"] * CELLS, [record.error for record in both]
    assert [record.id for record in both] == [record.id for record in one]
    assert figures(both) == figures(one)
    assert {record.environment["threads"] for record in both} == {1}
    assert not (tmp_path / "run" / ".claims").exists()
    assert not list((tmp_path / "cache").glob("*/*.lock"))


def test_the_executor_of_the_guide_keeps_the_contract_and_gives_them_too(one, tmp_path):
    (code,) = re.findall(r"^```python\n# pool.py\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert len(code.splitlines()) < 30
    file = tmp_path / "pool.py"
    file.write_text(code)
    reference = f"{file}:Pool"
    check_executor(find_executor(reference), workers=1)
    assert figures(run(GRID, tmp_path / "run", workers=1, executor=reference)) == figures(one)


class Killer:
    """Kills the first worker that attacks; counts what finishes."""

    def __init__(self):
        self.killed = 0

    def started(self, unit):
        pass

    def progress(self, text, part):
        if text == "hanging" and not self.killed:
            self.killed = 1
            for process in psutil.Process().children(recursive=True):
                if os.getsid(process.pid) == process.pid and "forkserver" in " ".join(process.cmdline()):
                    process.kill()

    def finished(self, unit, state, record):
        pass


@pytest.fixture
def hanging(tmp_path) -> str:
    (tmp_path / "hangs.py").write_text(HANGS)
    return SMALL + f'[[attacks]]\nname = "{tmp_path}/hangs.py:Hangs"\n[[attacks]]\nname = "random-image"\n'


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


def test_two_runs_in_one_folder_do_the_work_of_one(alone, tmp_path):
    together = list(several(2, GRID, tmp_path / "run", tmp_path / "cache"))
    assert [figures(records) for records, _, _ in together] == [figures(alone[0])] * 2
    assert sum(measured for _, measured, _ in together) == CELLS
    made = [path.name for path in tmp_path.glob("cache/*/*.safetensors")]
    assert len(made) == len(set(made)) > 5
    seconds = [spent for _, _, spent in together]
    print(f"two runs: {sum(seconds):.1f} CPU seconds {seconds}; one: {alone[2]:.1f}")
    assert sum(seconds) < MORE * alone[2]


def test_ctrl_c_leaves_no_orphans(hanging, tmp_path, cache):
    suite = tmp_path / "suite.toml"
    suite.write_text(hanging)
    started = [sys.executable, "-m", "dpbench", "run", suite, "--output", tmp_path / "run", "--workers", "2"]
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
    for place, more in ((1, ()), (2, ("--profile",))):
        asked = (suite, "--device", "cpu", "--output", tmp_path / "run", "--shard", f"{place}/2", *more)
        outcome = dpbench("run", *asked)
        assert outcome.status == 0, outcome.err
    assert re.search(r"^attack +[0-9.]+ s +[0-9]+%  [0-9]+ times$", outcome.out, re.MULTILINE)
    assert "trace, for ui.perfetto.dev" in outcome.out
    trace = json.loads((tmp_path / "run" / "profile.json").read_text())
    assert {"attack", "fidelity"} <= {event["name"] for event in trace["traceEvents"]}
    estimate = dpbench("run", suite, "--output", tmp_path / "other", "--dry-run", "--workers", "2").out
    assert re.search(r"^tasks: 2 cells, which share 1 images, 1 backbone, 1 judge, 1 defense$", estimate, re.MULTILINE)
    assert re.search(r"^by earlier runs: about [0-9.]+ minutes with 2 workers, [0-9.]+ GiB", estimate, re.MULTILINE)
    records = [json.loads(path.read_text()) for path in (tmp_path / "run" / "records").glob("*.json")]
    assert f"0 of {len(records)} cells to run" in dpbench("run", suite, "--output", tmp_path / "run").out
    outcome = dpbench("run", suite, "--shard", "3/2")
    assert (outcome.status, len(outcome.err.splitlines())) == (2, 1)
