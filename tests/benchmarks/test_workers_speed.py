"""Two workers beside one, each with a cold cache: `python -m pytest -s tests/benchmarks/test_workers_speed.py`."""

import subprocess
import sys
import time

import pandas as pd
import psutil
import pytest
from command_line import environment

FASTER = 1.3
"""At least so much, where each has a core."""


def measured(cache, output, workers: int) -> float:
    command = [sys.executable, "-m", "dpbench", "run", "quick", "--device", "cpu", "--output", str(output)]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "--workers", str(workers)], env=environment(cache), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return time.perf_counter() - began


@pytest.mark.skipif(psutil.cpu_count() < 2, reason="one core")
def test_two_workers_are_faster_than_one(tmp_path, benchmark):
    one = measured(tmp_path / "cache1", tmp_path / "run1", 1)
    two = benchmark.pedantic(measured, (tmp_path / "cache2", tmp_path / "run2", 2), rounds=1)
    print(f"one worker {one:.0f} s, two {two:.0f} s: {one / two:.2f} times as fast")
    boards = [
        pd.read_csv(tmp_path / name / "board.csv").drop(columns=["seconds", "client_ms"]) for name in ("run1", "run2")
    ]
    assert one / two > FASTER
    pd.testing.assert_frame_equal(*boards, check_exact=True)
