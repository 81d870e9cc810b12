"""What the whole process shares and a plug-in could leave changed: put back after every call of one.

Default dtype and device, grad mode, autocast, threads, seeds, the working folder, the environment, ...: set by one
plug-in, they would change or fail the cells after it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import locale
import logging
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.overrides import _get_current_function_mode_stack, _pop_mode
from torch.utils import _python_dispatch as dispatch

Switch = tuple[Callable[[], Any], Callable[[Any], object]]
"""Reads a setting, and sets it to what was read."""

_GUARDS: list[object] = []
"""Guards that stay alive, so that inference mode stays off, after a plug-in entered it and never left it."""

_depth = 0


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Around every call of a plug-in: afterwards the process is set as it was before, whatever happened inside.

    A call inside another one, such as an attack's query, which may be one of thousands, looks at `MODES` alone; the
    outer one puts back the rest.
    """
    global _depth
    switches = MODES if _depth else SWITCHES
    before = [read() for read, _ in switches]
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        for (read, put_back), value in zip(switches, before, strict=True):
            now = read()
            if now is not value and not _equal(now, value):
                put_back(value)


def _equal(now: Any, before: Any) -> bool:
    if isinstance(now, list):
        return len(now) == len(before) and all(map(_equal, now, before))
    if isinstance(now, torch.Tensor):
        with dispatch._disable_current_modes():  # some, such as those that pretend a device, refuse real tensors
            return torch.equal(now, before)
    return bool(now == before)


def _attribute(owner: Any, name: str) -> Switch:
    return functools.partial(getattr, owner, name), functools.partial(setattr, owner, name)


def _listed(owner: Any, name: str) -> Switch:
    """A list that others hold too: its content is put back, into the list that was there."""

    def read() -> tuple[list[Any], tuple[Any, ...]]:
        values = getattr(owner, name)
        return values, tuple(values)

    def put_back(before: tuple[list[Any], tuple[Any, ...]]) -> None:
        before[0][:] = before[1]
        setattr(owner, name, before[0])

    return read, put_back


def _device() -> torch.device | None:
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return None if context is None else context.device


def _leave_modes(depths: tuple[int, int]) -> None:
    while len(_get_current_function_mode_stack()) > depths[0]:
        _pop_mode()
    while len(dispatch._get_current_dispatch_mode_stack()) > depths[1]:
        dispatch._pop_mode()


def _modes() -> tuple[int, int]:
    return len(_get_current_function_mode_stack()), len(dispatch._get_current_dispatch_mode_stack())


def _leave_inference_mode(before: bool) -> None:
    _GUARDS.append(torch._C._InferenceMode(before))


def _autocast_depth() -> int:
    depth = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    return depth


def _leave_autocast(depth: int) -> None:
    while _autocast_depth() > depth:
        torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()  # casts of weights, which only the outermost autocast forgets


def _flushes_denormals() -> bool:
    return float(_DENORMAL * 1) == 0


_DENORMAL = torch.tensor(1e-310, dtype=torch.float64)


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _cuda_generators() -> list[torch.Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def _put_back_cuda(states: list[torch.Tensor]) -> None:
    if states:
        torch.cuda.set_rng_state_all(states)


def _numpy_generator() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - not to draw, but to notice who did
    return name, keys.tobytes(), *rest  # type: ignore[union-attr]


def _put_back_numpy(state: tuple[Any, ...]) -> None:
    name, keys, *rest = state
    np.random.set_state((name, np.frombuffer(keys, np.uint32), *rest))  # noqa: NPY002


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # deleted
        return None


def _enter(folder: str | None) -> None:
    if folder is not None:
        os.chdir(folder)


def _put_back_environment(before: dict[str, str]) -> None:
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
    if hasattr(time, "tzset"):
        time.tzset()


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGPIPE", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGXCPU")
    if hasattr(signal, name)
]


def _handlers() -> tuple[Any, ...]:
    return tuple(map(signal.getsignal, _SIGNALS))


def _put_back_handlers(handlers: tuple[Any, ...]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # nor could the plug-in set any
    for number, handler in zip(_SIGNALS, handlers, strict=True):
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def _logging() -> tuple[Any, ...]:
    root = logging.getLogger()
    return root.level, root.manager.disable, tuple(root.handlers)


def _put_back_logging(before: tuple[Any, ...]) -> None:
    root = logging.getLogger()
    root.setLevel(before[0])
    logging.disable(before[1])
    root.handlers[:] = before[2]


def _filters() -> tuple[list[Any], tuple[Any, ...], Any]:
    return warnings.filters, tuple(warnings.filters), warnings.showwarning  # type: ignore[return-value]


def _put_back_filters(before: tuple[list[Any], tuple[Any, ...], Any]) -> None:
    filters, content, warnings.showwarning = before
    filters[:] = content
    warnings.filters = filters
    warnings._filters_mutated()  # type: ignore[attr-defined]


def _print_options() -> tuple[Any, ...]:
    return tuple(sorted(vars(torch._tensor_str.PRINT_OPTS).items()))


MODES: tuple[Switch, ...] = (
    (_modes, _leave_modes),
    (_device, torch.set_default_device),
    (torch.is_inference_mode_enabled, _leave_inference_mode),
    (torch.is_grad_enabled, torch._C._set_grad_enabled),
    (_autocast_depth, _leave_autocast),
    *(
        switch
        for kind in ("cpu", "cuda")
        for switch in (
            (functools.partial(torch.is_autocast_enabled, kind), functools.partial(torch.set_autocast_enabled, kind)),
            (functools.partial(torch.get_autocast_dtype, kind), functools.partial(torch.set_autocast_dtype, kind)),
        )
    ),
    (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
)
"""Switches that say how torch computes, in the order in which they are put back."""

SWITCHES: tuple[Switch, ...] = (
    *MODES,
    (torch.get_num_threads, torch.set_num_threads),
    (_flushes_denormals, torch.set_flush_denormal),
    (_deterministic, lambda before: torch.use_deterministic_algorithms(before[0], warn_only=before[1])),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    *(_attribute(torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")),
    _attribute(torch.backends.mkldnn, "enabled"),
    *(
        (getattr(torch.backends.cuda, f"{name}_sdp_enabled"), getattr(torch.backends.cuda, f"enable_{name}_sdp"))
        for name in ("flash", "mem_efficient", "math")
    ),
    (_print_options, lambda before: vars(torch._tensor_str.PRINT_OPTS).update(before)),
    (torch.get_rng_state, torch.set_rng_state),
    (_cuda_generators, _put_back_cuda),
    (_numpy_generator, _put_back_numpy),
    (np.geterr, lambda before: np.seterr(**before)),
    (random.getstate, random.setstate),
    (_folder, _enter),
    (_umask, os.umask),
    (lambda: dict(os.environ), _put_back_environment),
    _listed(sys, "path"),
    _listed(sys, "meta_path"),
    _listed(sys, "path_hooks"),
    _listed(sys, "argv"),
    *(_attribute(sys, name) for name in ("stdin", "stdout", "stderr", "excepthook", "displayhook")),
    _attribute(threading, "excepthook"),
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (sys.getswitchinterval, sys.setswitchinterval),
    (sys.gettrace, sys.settrace),
    (sys.getprofile, sys.setprofile),
    (gc.isenabled, lambda before: gc.enable() if before else gc.disable()),
    (gc.get_threshold, lambda before: gc.set_threshold(*before)),
    (lambda: locale.setlocale(locale.LC_ALL), lambda before: locale.setlocale(locale.LC_ALL, before)),
    (_handlers, _put_back_handlers),
    (_logging, _put_back_logging),
    (_filters, _put_back_filters),
)
"""All switches that are put back after a plug-in was called."""
