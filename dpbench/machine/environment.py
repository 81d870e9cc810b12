"""What a figure was measured on: versions, commit, device. Part of every record, of no cell's identity.

Figures are equal, bit for bit, on one machine only, and that is: the same device model (of a CPU also the instructions
that torch uses), the same torch, the same precision, and the same number of threads. Sums are split over threads, and
their rounding differs: one thread and two gave an SSIM of 0.3696 and 0.3699. Where networks are fitted, the difference
grows: on the suite quick SSIM moved by up to 0.033, and the accuracy behind one fit of dpm from 88.2% to 92.4%.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dpbench import __version__
from dpbench.machine.devices import fast_dtype

ONE_MACHINE = (
    *("platform", "device", "accelerator", "processor", "instructions"),
    *("threads", "interop_threads", "network_precision", "compiled"),
)
"""What must be equal on one machine, beside the version of torch: `describe_environment`, and `--compile`."""

PACKAGES = ("torch", "torchvision", "timm", "numpy", "piq", "lpips", "pandas")


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Plain JSON values: versions, commit, machine, device, precision."""
    dtype = fast_dtype(device.type)
    return {
        "versions": versions(),
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "device": device.type,
        "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "network_precision": str(dtype or torch.float32).removeprefix("torch."),
    }


def same_machine(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records may be expected to hold equal figures for equal cells: see the head of this file.

    Args:
        one: `environment` of a record; one of before, which says less, is compared by what both say.
        other: likewise.

    Returns:
        False also where one of them says nothing.
    """
    versions = [given.get("versions") for given in (one, other)]
    torches = [given.get("torch") if isinstance(given, Mapping) else None for given in versions]
    if torches[0] is None or torches[0] != torches[1]:
        return False
    first, second = ({"compiled": False, **given} for given in (one, other))
    return all(first[name] == second[name] for name in ONE_MACHINE if name in first and name in second)


@functools.cache
def versions() -> dict[str, str]:
    """Of dpbench and the packages that figures depend on.

    That of dpbench is the one of the code that runs: an editable installation keeps the metadata of its first day.
    """
    found = {"dpbench": __version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


@functools.cache
def _commit() -> str | None:
    """The commit of the checkout that dpbench runs from, with + where it has changes; None when installed."""
    folder = Path(__file__).resolve().parent
    if not (folder.parent / ".git").exists():
        return None
    try:
        run = functools.partial(subprocess.run, cwd=folder, capture_output=True, text=True, timeout=10, check=True)
        head = run(["git", "rev-parse", "HEAD"]).stdout.strip()
        changed = run(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed else "")


@functools.cache
def _processor() -> str:
    name = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name or platform.machine()}, {os.cpu_count()} cores"
