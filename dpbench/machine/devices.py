"""Where tensors live and in which precision networks run.

One `--device` decides; everything else takes its device from the tensors it is given.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dpbench.errors import DpbenchError

M = TypeVar("M", bound=nn.Module)
C = TypeVar("C", bound=Callable[..., Any])

CHOICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str = "auto") -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU.

    Raises:
        DpbenchError: the device is not one of `CHOICES`, or this machine does not have it.
    """
    if name not in CHOICES:
        raise DpbenchError(f"unknown device {name!r}; expected one of {', '.join(CHOICES)}")
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    if not present[name]:
        raise DpbenchError(
            f"--device {name} was asked for, but torch {torch.__version__} sees no {name} device here; "
            "use --device auto or cpu, or install a torch build for this device"
        )
    return torch.device(name)


def exact(values: Tensor) -> Tensor:
    """The values in float64 where the device has it: a release may hide all below the resolution of float32."""
    return values.float() if values.device.type == "mps" else values.double()


def float64_device(device: torch.device) -> torch.device:
    """Where what is on a device is computed in float64: there, but for MPS, which has none, on the CPU."""
    return torch.device("cpu") if device.type == "mps" else device


def compute_exactly() -> None:
    """From now on CUDA's convolutions are deterministic, and fp32 in full.

    In TF32, which is CUDA's default for them, an image's features differ by 1e-3 from one batch size to the next:
    a release would depend on what comes with it. Networks that may be fast run under `autocast`.
    """
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False


BACKEND = "inductor"
"""What compiles: torch's own."""

_compiling = False


def compile_loops(asked: bool) -> None:
    """From now on `compiled` compiles, or no longer does."""
    global _compiling
    _compiling = asked
    if asked:
        import torch._dynamo

        torch._dynamo.config.suppress_errors = True  # what it cannot compile is computed as it is written
        torch.compiler.reset()  # what was compiled for another cell is of no use, and only so many variants are kept


def compiled(step: C) -> C:
    """What an optimisation does in each of its steps, compiled where `--compile` asks for it, else as it is.

    Args:
        step: a network, or a function of tensors; whatever else it takes should not change from step to step.
    """
    return torch.compile(step, backend=BACKEND, dynamic=False) if _compiling else step  # type: ignore[return-value]


def assert_compiler(device: torch.device) -> None:
    """Find out before a run whether `--compile` can do anything.

    Raises:
        DpbenchError: torch finds no compiler for this device.
    """
    here = any(shutil.which(name) for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++", "cl") if name)
    lacking = "" if here else "a C++ compiler (g++ or clang++)"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        lacking = "the package triton"
    if lacking:
        raise DpbenchError(
            f"--compile: {lacking} is not there, and torch compiles nothing without it; "
            "install it, or leave --compile out"
        )


@functools.cache
def fast_dtype(device_type: str) -> torch.dtype | None:
    """The 16-bit float this kind of device computes natively, or None where fp32 is the fastest that holds."""
    if device_type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    if device_type == "cpu":
        return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else None
    return None


@contextlib.contextmanager
def autocast(device: torch.device) -> Iterator[None]:
    """Run *networks* in bf16 where the device has it; losses and metrics stay outside, in fp32."""
    dtype = fast_dtype(device.type)
    if dtype is None:
        yield
        return
    with torch.autocast(device.type, dtype=dtype):
        yield


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """Move a batch; pinned and non-blocking where that overlaps the copy with compute."""
    if device.type == "cuda" and images.device.type == "cpu":
        return images.pin_memory().to(device, non_blocking=True)
    return images.to(device)


def place(module: M, device: torch.device) -> M:
    """Move a network to its device, convolution weights in channels_last."""
    return module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def fuses(device: torch.device) -> bool:
    """Whether torch's optimisers have one kernel for a whole step there: `fused`."""
    return device.type in ("cpu", "cuda")


def gpu_count() -> int:
    """GPUs that this process may use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def one_gpu(number: int) -> dict[str, str]:
    """The environment in which a process sees one of several GPUs, in turn by its number; empty where there is none."""
    count = gpu_count()
    if not count:
        return {}
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = shown.split(",") if shown else [str(index) for index in range(count)]
    return {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]}
