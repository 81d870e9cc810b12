"""A file of weights -> named tensors, or one clear line why not. Nothing in a file is ever run."""

from __future__ import annotations

import argparse
import functools
import hashlib
import pathlib
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from dpbench.errors import DpbenchError
from dpbench.machine.cache import State

NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")
"""Keys under which training scripts keep the state dict; the first that is there is taken."""

AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "params_ema")
"""Keys of averaged weights: taken where there are no others."""

PREFIXES = ("module.", "model.", "net.", "network.")
"""Prefixes of all names where training kept the network as an attribute: data-parallel wrappers, Lightning."""

WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts of names that come from wrapping a module: `torch.compile`, sharding, checkpointing."""

CLASS_NAMES = ("class_to_idx", "classes", "class_names", "idx_to_class")
"""Keys under which training scripts keep the classes in the order of the classifier's rows."""

_scalar = np.float64(0).__reduce__()[0]
PLAIN: list[Any] = [
    *(argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath),
    *(np.dtype, *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.bool_))),
    *(_scalar, (_scalar, "numpy.core.multiarray.scalar")),
]
"""What trainers put beside the weights (timm: its arguments; others: a best score): they hold values and do nothing."""

LONGEST_HEADER = 100_000_000
"""Most bytes of a safetensors header; the format allows no more."""

SHOWN = 3
"""Keys of each kind that an error names."""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex; read again only when the file has changed.

    Raises:
        DpbenchError: it cannot be read.
    """
    try:
        stat = path.stat()
        return _sha256(path.resolve(), stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_size)
    except OSError as error:
        raise DpbenchError(f"{path} cannot be read ({error.strerror}); make it readable") from error


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, *changes_with_it: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """What a file of weights holds.

    Attributes:
        state: named tensors, on the CPU.
        averaged: the key of averaged weights that are there too and were not taken; empty where there are none.
        classes: names of the classes in the order of the classifier's rows; empty where the file does not say.
    """

    state: State
    averaged: str = ""
    classes: tuple[str, ...] = ()


def read_checkpoint(path: Path, *, key: str | None = None) -> Checkpoint:
    """A safetensors file or a PyTorch checkpoint, told by its content, whatever its name ends in.

    A checkpoint is a state dict, or holds one under one of `NESTED`, else of `AVERAGED`; what training puts in front
    of all names, or wraps modules in, is taken off.

    Args:
        path: the file.
        key: where else the state dict is.

    Raises:
        DpbenchError: the file is damaged, holds more than tensors and plain values, or holds no state dict.
    """
    content = _read(path)
    state, averaged = content, ""
    if isinstance(content, Mapping):
        there = [name for name in (*NESTED, *AVERAGED) if isinstance(content.get(name), Mapping)]
        taken = key if key is not None else next(iter(there), None)
        state = content.get(taken, content)
        averaged = next((name for name in there if name in AVERAGED and name != taken), "")
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise DpbenchError(
            f"weights {path} hold no state dict; expected named tensors, at the top or under {', '.join(NESTED)}: "
            "save model.state_dict()"
        )
    return Checkpoint(_bare({str(name): value for name, value in state.items()}), averaged, _classes(content))


def _bare(state: State) -> State:
    """The same tensors without what training put in front of their names or in between."""
    state = {".".join(part for part in name.split(".") if part not in WRAPPERS): v for name, v in state.items()}
    if any(name.startswith("module.") for name in state):
        state.pop("n_averaged", None)  # of torch's own averaging, beside the weights
    prefix = next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in state)), "")
    return _bare({name.removeprefix(prefix): value for name, value in state.items()}) if prefix else state


def _classes(content: object) -> tuple[str, ...]:
    """Names of the classes by row, where a checkpoint states them in a usual form."""
    stated = (
        next((content[name] for name in CLASS_NAMES if content.get(name)), ()) if isinstance(content, Mapping) else ()
    )
    if isinstance(stated, Mapping):
        # name -> row, or row -> name
        by_row = {row: name for name, row in stated.items() if isinstance(row, int)} or dict(stated)
        if sorted(by_row, key=str) != sorted(range(len(by_row)), key=str):
            return ()
        stated = [by_row[row] for row in range(len(by_row))]
    return tuple(stated) if isinstance(stated, list | tuple) and all(isinstance(one, str) for one in stated) else ()


def _read(path: Path) -> Any:
    if not path.is_file():
        raise DpbenchError(f"there is no weights file {path}; expected a safetensors file or a PyTorch checkpoint")
    try:
        if _is_safetensors(path):
            return safetensors.torch.load_file(path)
        # opened here: by its path, torch would read what is called .safetensors as that
        with warnings.catch_warnings(), torch.serialization.safe_globals(PLAIN), path.open("rb") as file:
            warnings.simplefilter("ignore")  # of unusual pickles: they are read or refused
            return torch.load(file, map_location="cpu", weights_only=True)
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


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as one: with the length of a header, and a header that is JSON."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < LONGEST_HEADER


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
