"""Whatever a plug-in leaves set, the next one finds the process as it was."""

import gc
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from torch.overrides import BaseTorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dpbench.machine.process_state import preserved


class Dispatched(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def mkdir_and_enter(tmp_path):
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")


def chance():
    """Reads torch's, numpy's and Python's generators without moving them."""
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002


def flushes():
    return float(torch.tensor(1e-310, dtype=torch.float64) * 1) == 0


LEFT = {
    "default dtype": (lambda: torch.set_default_dtype(torch.float64), torch.get_default_dtype),
    "default device": (lambda: torch.set_default_device("meta"), lambda: torch.tensor(0.0).device.type),
    "grad mode": (lambda: torch._C._set_grad_enabled(False), torch.is_grad_enabled),
    "no_grad": (lambda: torch.no_grad().__enter__(), torch.is_grad_enabled),
    "inference mode": (
        lambda: HELD.append(torch._C._InferenceMode(True)),
        lambda: (torch.is_inference_mode_enabled(), torch.zeros(1).is_inference()),
    ),
    "autocast": (
        lambda: torch.autocast("cpu", torch.bfloat16).__enter__(),
        lambda: (torch.is_autocast_enabled("cpu"), (torch.ones(2, 2) @ torch.ones(2, 2)).dtype),
    ),
    "autocast dtype": (lambda: torch.set_autocast_dtype("cpu", torch.float16), lambda: torch.get_autocast_dtype("cpu")),
    "threads": (lambda: torch.set_num_threads(torch.get_num_threads() + 1), torch.get_num_threads),
    "denormals": (lambda: torch.set_flush_denormal(True), flushes),
    "deterministic": (
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
        torch.are_deterministic_algorithms_enabled,
    ),
    "anomaly": (lambda: torch.autograd.set_detect_anomaly(True), torch.is_anomaly_enabled),
    "matmul precision": (lambda: torch.set_float32_matmul_precision("medium"), torch.get_float32_matmul_precision),
    "cudnn": (lambda: setattr(torch.backends.cudnn, "benchmark", True), lambda: torch.backends.cudnn.benchmark),
    "cudnn off": (lambda: setattr(torch.backends.cudnn, "enabled", False), lambda: torch.backends.cudnn.enabled),
    "tf32": (lambda: setattr(torch.backends.cudnn, "allow_tf32", False), lambda: torch.backends.cudnn.allow_tf32),
    "mkldnn": (lambda: setattr(torch.backends.mkldnn, "enabled", False), lambda: torch.backends.mkldnn.enabled),
    "attention": (lambda: torch.backends.cuda.enable_math_sdp(False), torch.backends.cuda.math_sdp_enabled),
    "print options": (lambda: torch.set_printoptions(precision=1), lambda: str(torch.tensor(1 / 3))),
    "function mode": (lambda: BaseTorchFunctionMode().__enter__(), torch.overrides._get_current_function_mode),
    "dispatch mode": (
        lambda: Dispatched().__enter__(),
        lambda: len(torch.utils._python_dispatch._get_current_dispatch_mode_stack()),
    ),
    "torch's seed": (lambda: torch.manual_seed(7), chance),
    "numpy's seed": (lambda: np.random.seed(7), chance),  # noqa: NPY002
    "Python's seed": (lambda: random.seed(7), chance),
    "numpy's errors": (lambda: np.seterr(all="raise"), np.geterr),
    "working folder": (lambda: os.chdir("/"), os.getcwd),
    "environment": (lambda: os.environ.update(DPBENCH_CACHE="/nowhere", NEW="1"), lambda: dict(os.environ)),
    "environment, less": (lambda: os.environ.pop("PATH"), lambda: dict(os.environ)),
    "sys.path": (lambda: sys.path.insert(0, "/nowhere"), lambda: list(sys.path)),
    "sys.path, replaced": (lambda: setattr(sys, "path", []), lambda: list(sys.path)),
    "arguments": (lambda: sys.argv.append("--all"), lambda: list(sys.argv)),
    "stdout": (lambda: setattr(sys, "stdout", open(os.devnull, "w")), lambda: sys.stdout),
    "recursion": (lambda: sys.setrecursionlimit(5000), sys.getrecursionlimit),
    "garbage": (gc.disable, gc.isenabled),
    "garbage thresholds": (lambda: gc.set_threshold(1, 1, 1), gc.get_threshold),
    "locale": (lambda: locale.setlocale(locale.LC_ALL, "C"), lambda: locale.setlocale(locale.LC_ALL)),
    "signals": (lambda: signal.signal(signal.SIGINT, signal.SIG_IGN), lambda: signal.getsignal(signal.SIGINT)),
    "logging level": (lambda: logging.getLogger().setLevel(1), lambda: logging.getLogger().level),
    "logging off": (lambda: logging.disable(logging.CRITICAL), lambda: logging.getLogger().manager.disable),
    "log handlers": (
        lambda: logging.getLogger().addHandler(logging.NullHandler()),
        lambda: list(logging.getLogger().handlers),
    ),
    "warnings": (lambda: warnings.simplefilter("ignore"), lambda: list(warnings.filters)),
    "warnings, reset": (warnings.resetwarnings, lambda: list(warnings.filters)),
    "shown warnings": (lambda: setattr(warnings, "showwarning", print), lambda: warnings.showwarning),
    "except hook": (lambda: setattr(sys, "excepthook", print), lambda: sys.excepthook),
    "thread hook": (lambda: setattr(threading, "excepthook", print), lambda: threading.excepthook),
}
HELD: list[object] = []


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", LEFT)
def test_a_switch_is_put_back(name):
    leave, look = LEFT[name]
    if name == "locale":
        locale.setlocale(locale.LC_ALL, "C.UTF-8")
    before = look()
    with preserved():
        leave()
    assert look() == before

    def fails():
        with preserved():
            leave()
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert look() == before
    HELD.clear()
    assert look() == before


def test_what_nobody_changed_is_left_alone():
    with preserved():
        pass
    filters, path = warnings.filters, sys.path
    with preserved():
        sys.path.append("/nowhere")
    assert sys.path is path
    assert warnings.filters is filters


def test_a_call_inside_another_puts_back_how_torch_computes():
    with preserved():
        with preserved():
            torch.set_grad_enabled(False)
            torch.set_default_dtype(torch.float64)
        assert torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float32


def test_a_working_folder_that_is_gone(tmp_path):
    before = os.getcwd()
    with preserved():
        mkdir_and_enter(tmp_path)
        os.rmdir(tmp_path / "gone")
    assert os.getcwd() == before
