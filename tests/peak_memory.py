"""Peak memory of whole runs in processes of their own: more images must not take more of it, larger batches may."""

import subprocess
import sys

from command_line import environment
from tiny_suite import tiny_suite

from dpbench.records import store


def small_suite(images, *attacks, defense="none"):
    """On so many auxiliary and as many test images."""
    return tiny_suite(
        [defense],
        attacks,
        victims=8,
        threat_models=["weights"],
        dataset={"private": 64, "auxiliary": images, "test": images},
        backbone={"epochs": 0},
    )


MEASURE = """
from pathlib import Path
from dpbench.machine import memory
memory.SHARE = 1 << 60  # nothing fits
from dpbench.cli.app import main
try:
    main()
finally:
    status = Path("/proc/self/status").read_text()  # ru_maxrss would count the process that started this one
    print("peak", int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""

FLOOR = "nearest-auxiliary"
WIDE = {"name": "rmle", "victims": 512, "steps": 1, "decoder_steps": 1, "total_variation": 0.1, "nearness": 0}


def peak_mib(tmp_path, images, *arguments, attack):
    """Of a run on so many auxiliary and as many test images, of which nothing is held in memory."""
    path = tmp_path / "suite.toml"
    path.write_text(small_suite(images, attack))
    output = tmp_path / f"run-{images}-{'-'.join(arguments)}"
    command = [sys.executable, "-c", MEASURE, "run", str(path), "--device", "cpu", "--output", str(output), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(tmp_path / "cache", OMP_NUM_THREADS="1"), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = store.CELLS.all(output)
    peak = int(done.stdout.split()[-1])
    assert 0.5 * peak < record.memory.peak_bytes <= 1.01 * peak
    return peak / 2**20


def assert_bounded_in_images(tmp_path, few, many):
    """Compare runs on so many images; prints what the guide shows."""
    one, other = (peak_mib(tmp_path, images, attack=FLOOR) for images in (few, many))
    held = (many - few) * (2 * 3 * 32 * 32 + 64 * 8 * 8) * 4 / 2**20  # two parts, and the features of one
    print(f"peak MiB: {one:.0f} for {few:,} images, {other:.0f} for {many:,}; held, they would be {held:.0f} more")
    assert other - one < 0.25 * held


def assert_grows_with_the_batch(tmp_path, few):
    """Compare batches of 16 and 512; prints what the guide shows."""
    small, large = (peak_mib(tmp_path, few, "--batch-size", size, attack=WIDE) for size in ("16", "512"))
    print(f"peak MiB: {small:.0f} for batches of 16 images, {large:.0f} for 512")
    assert large > small + 100
