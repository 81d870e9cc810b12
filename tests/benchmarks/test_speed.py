"""How long a user waits. Figures are reported by pytest-benchmark; nothing here asserts a time.

python -m pytest -n 0 tests/benchmarks
"""

import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A cold cache and an output folder, shared by the cold and the warm run."""
    return tmp_path_factory.mktemp("quick")


def dpbench(workplace, *arguments):
    command = [sys.executable, "-m", "dpbench", *arguments]
    environment = {**os.environ, "DPBENCH_CACHE": str(workplace / "cache")}
    done = subprocess.run(command, cwd=workplace, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_help(benchmark, workplace):
    assert "Usage" in benchmark.pedantic(dpbench, (workplace, "--help"), rounds=5, warmup_rounds=1)


def test_quick_from_a_cold_cache(benchmark, workplace):
    shown = benchmark.pedantic(dpbench, (workplace, "run"), rounds=1)
    assert "leaves" in shown


def test_quick_again_with_everything_cached(benchmark, workplace):
    shown = benchmark.pedantic(dpbench, (workplace, "run"), rounds=3)
    assert "0 of" in shown
