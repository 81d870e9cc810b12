"""A file of weights -> named tensors, or one clear line why not. Nothing in a file is ever run."""

from __future__ import annotations

import functools
import hashlib
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from dpbench.cache import State
from dpbench.errors import DpbenchError

NESTED = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep the state dict."""

SHOWN = 3
"""Keys of each kind that an error names."""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex; read again only when the file has changed.

    Raises:
        DpbenchError: it cannot be read.
    """
    try:
        stat = path.stat()
        return _sha256(path.resolve(), stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        raise DpbenchError(f"{path} cannot be read ({error.strerror}); make it readable") from error


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, mtime_ns: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_checkpoint(path: Path, *, key: str | None = None) -> State:
    """The tensors of a safetensors file or a PyTorch checkpoint, on the CPU.

    A checkpoint is a state dict, or holds one under `state_dict`, `model_state_dict` or `model`; the prefix `module.`
    of data-parallel training is taken off.

    Args:
        path: the file.
        key: where else the state dict is.

    Raises:
        DpbenchError: the file is damaged, holds more than tensors and plain values, or holds no state dict.
    """
    content = _read(path)
    for name in (key,) if key is not None else NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise DpbenchError(
            f"weights {path} hold no state dict; expected named tensors, at the top or under {', '.join(NESTED)}: "
            "save model.state_dict()"
        )
    names = [str(name) for name in content]
    prefix = "module." if all(name.startswith("module.") for name in names) else ""
    return {name.removeprefix(prefix): value for name, value in zip(names, content.values(), strict=True)}


def _read(path: Path) -> Any:
    if not path.is_file():
        raise DpbenchError(f"there is no weights file {path}; expected a safetensors file or a PyTorch checkpoint")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickles: they are read or refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise DpbenchError(
            f"weights {path} were refused: they hold something else than tensors ({found[1] if found else 'unknown'}), "
            "which could run code when it is loaded, or are damaged; save model.state_dict() alone, best as safetensors"
        ) from error
    except PermissionError as error:
        raise DpbenchError(f"weights {path} cannot be read ({error.strerror}); make them readable") from error
    except Exception as error:  # a file cut short may raise anything from the readers
        reason = f"{type(error).__name__}: {error}".split(". ")[0].splitlines()[0][:120]
        raise DpbenchError(
            f"weights {path} are cut short, damaged or of another kind ({reason}); expected a safetensors file or a "
            "PyTorch checkpoint: copy the file again, or save model.state_dict()"
        ) from error


def misfit(state: State, model: nn.Module) -> str:
    """How a state dict differs from what a model needs: the first few keys of each kind, and how many there are."""
    needed, given = (
        # what a batch norm has counted may be left out
        {name: tuple(value.shape) for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
        for tensors in (model.state_dict(), state)
    )
    kinds = {
        "missing": [name for name in needed if name not in given],
        "unexpected": [name for name in given if name not in needed],
        "of another shape": [
            f"{name} {shape} instead of {needed[name]}"
            for name, shape in given.items()
            if name in needed and shape != needed[name]
        ],
    }
    return "; ".join(f"{kind}: {_some(names)}" for kind, names in kinds.items() if names)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
