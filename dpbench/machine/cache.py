"""Fitted networks kept as safetensors under a content hash of what they depend on.

A damaged or foreign file is not an error: it is made again. Damaged is what does not have the content that it had when
it was written, down to the last bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import platformdirs
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from dpbench.machine.writing import write_atomically

State = dict[str, Tensor]


def default_cache() -> Path:
    """`$DPBENCH_CACHE`, else the user's cache folder."""
    chosen = os.environ.get("DPBENCH_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("dpbench"))


def remember(
    cache: Path,
    kind: str,
    key: str,
    make: Callable[[], State],
    progress: Callable[[str], None] = lambda text: None,
) -> State:
    """The tensors stored under `kind` and `key`, or what `make` returns, stored for the next time.

    Args:
        cache: the cache folder.
        kind: a word for people who look into the folder, such as "backbone".
        key: content hash of everything the tensors depend on.
        make: called when they are not there, or damaged.
        progress: told of a damaged file.

    Returns:
        The tensors on the CPU.
    """
    path = cache / re.sub(r"[^A-Za-z0-9_-]+", "_", kind) / f"{key[:40]}.safetensors"
    if path.is_file():
        stored = _read(path)
        if stored is not None:
            return stored
        progress(f"{path} is damaged, or of an older dpbench; made again")
    # clones: safetensors refuses tensors that share memory
    state = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in make().items()}
    written = {"content": _content(state)}
    write_atomically(path, lambda temporary: safetensors.torch.save_file(state, temporary, metadata=written))
    return state


def _read(path: Path) -> State | None:
    """The tensors of a file; None if they are not those that were written."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            written = (file.metadata() or {}).get("content")
            state: State = {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, OSError):
        return None  # cut short
    return state if written == _content(state) else None


def state_hash(state: State) -> str:
    """SHA-256 in hex of the tensors' names and bytes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _content(state: State) -> str:
    """SHA-256 in hex of the tensors' names, bytes, shapes and types."""
    layout = {name: [str(value.dtype), list(value.shape)] for name, value in state.items()}
    return hashlib.sha256(json.dumps([state_hash(state), layout], sort_keys=True).encode()).hexdigest()
