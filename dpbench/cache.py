"""Fitted networks kept as safetensors under a content hash of what they depend on.

A damaged or foreign file is not an error: it is made again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import platformdirs
import safetensors
import safetensors.torch
from torch import Tensor

from dpbench.store import write_atomically

State = dict[str, Tensor]


def default_cache() -> Path:
    """`$DPBENCH_CACHE`, else the user's cache folder."""
    chosen = os.environ.get("DPBENCH_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("dpbench"))


def remember(cache: Path, kind: str, key: str, make: Callable[[], State]) -> State:
    """The tensors stored under `kind` and `key`, or what `make` returns, stored for the next time.

    Args:
        cache: the cache folder.
        kind: a word for people who look into the folder, such as "backbone".
        key: content hash of everything the tensors depend on.
        make: called when they are not there.

    Returns:
        The tensors on the CPU.
    """
    path = cache / re.sub(r"[^A-Za-z0-9_-]+", "_", kind) / f"{key[:40]}.safetensors"
    if path.is_file():
        try:
            stored: State = safetensors.torch.load_file(path)
            return stored
        except (safetensors.SafetensorError, OSError):
            pass  # cut short or damaged: made again below
    # clones: safetensors refuses tensors that share memory
    state = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in make().items()}
    write_atomically(path, lambda temporary: safetensors.torch.save_file(state, temporary))
    return state
