"""A file of weights -> named tensors, or one clear line why not. Nothing in a file is ever run."""

from __future__ import annotations

import argparse
import functools
import hashlib
import pathlib
import pickle
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
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
"""Keys under which training scripts keep the state dict, in one another too; the first that is there is taken."""

AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "params_ema", "ema", "ema_model", "averaged_model")
"""Keys of averaged weights, and what their names begin with among others: taken where there are no others."""

COUNTERS = frozenset({"n_averaged", "initted", "step", "num_updates", "decay"})
"""What averaging keeps beside averaged weights."""

PREFIXES = ("module.", "model.", "net.", "network.", "backbone.", "online_model.", *(f"{key}." for key in AVERAGED))
"""Prefixes of all names where training kept the network as an attribute: data-parallel wrappers, Lightning."""

DEEPEST = 4
"""Wrappers in one another that are looked into."""

WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts of names that come from wrapping a module: `torch.compile`, sharding, checkpointing."""

CLASS_NAMES = ("class_to_idx", "classes", "class_names", "idx_to_class")
"""Keys under which training scripts keep the classes in the order of the classifier's rows."""

_scalar = np.float64(0).__reduce__()[0]
_array = np.zeros(0).__reduce__()[0]
PLAIN: list[Any] = [
    *(argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath),
    *(np.dtype, *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.bool_))),
    *(_scalar, (_scalar, "numpy.core.multiarray.scalar")),
    *(np.ndarray, _array, (_array, "numpy.core.multiarray._reconstruct")),
    *(type(np.dtype(kind)) for kind in (np.float16, np.int32, np.int16, np.int8, np.uint8)),
]
"""What trainers put beside the weights (timm: its arguments; others: a best score), and arrays of numpy: they hold
values and do nothing."""

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


Named = tuple[str, State]
"""What was taken off the names of tensors, and the tensors."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file of weights holds.

    Attributes:
        state: named tensors, on the CPU.
        averaged: the key of averaged weights that are there too and were not taken; empty where there are none.
        classes: names of the classes in the order of the classifier's rows; empty where the file does not say.
        under: the keys under which the tensors were; empty at the top.
        off: what was taken off their names.
        steps: the same tensors as less and less of their names was left.
    """

    state: State
    averaged: str = ""
    classes: tuple[str, ...] = ()
    under: str = ""
    off: str = ""
    steps: tuple[Named, ...] = ()

    def fitting(self, needed: Collection[str]) -> Checkpoint:
        """The same, with no more taken off the names than a network of these parameters and buffers asks for."""
        wanted = {name for name in needed if not name.endswith("num_batches_tracked")}
        fits = [(off, state) for off, state in self.steps if wanted <= state.keys()]
        return replace(self, off=fits[0][0], state=fits[0][1]) if fits else self

    @property
    def form(self) -> str:
        """How the tensors were found, for a record; empty where they are as they should be."""
        halves = {str(v.dtype).removeprefix("torch.") for v in self.state.values() if v.dtype in HALVES}
        said = (
            f"under {self.under}" if self.under else "",
            f"without {self.off}" if self.off else "",
            f"of {' and '.join(sorted(halves))}" if halves else "",
            f"not {self.averaged}" if self.averaged else "",
        )
        return ", ".join(filter(None, said))


HALVES = (torch.float16, torch.bfloat16)


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
    state, under, averaged = _unwrapped(content, key)
    found = {str(name): _tensor(value) for name, value in state.items()} if isinstance(state, Mapping) else {}
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors or len(tensors) < len(found):
        raise DpbenchError(
            f"weights {path} hold no state dict; expected named tensors, at the top or under {', '.join(NESTED)}: "
            "save model.state_dict()"
        )
    tensors, more = _not_averaged(tensors)
    steps = tuple(_steps(tensors))
    off, bare = steps[-1]
    return Checkpoint(bare, averaged or more, _classes(content), ".".join(under), off, steps)


def _unwrapped(content: Any, key: str | None) -> tuple[Any, list[str], str]:
    """What lies in the wrappers of a checkpoint, their keys, and that of averaged weights that were not taken."""
    under: list[str] = []
    averaged = ""
    while isinstance(content, Mapping) and len(under) < DEEPEST:
        there = [name for name in (*NESTED, *AVERAGED) if isinstance(content.get(name), Mapping)]
        taken = key if key in content and not under else next(iter(there), None)
        averaged = averaged or next((name for name in there if name in AVERAGED and name != taken), "")
        if taken is None:
            break
        under.append(taken)
        content = content[taken]
    return content, under, averaged


def _tensor(value: object) -> object:
    """An array of numbers as a tensor."""
    return torch.from_numpy(value) if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" else value


def _not_averaged(state: State) -> tuple[State, str]:
    """The tensors without those that are averages of others, and what the names of these begin with."""
    for key in AVERAGED:
        averages = {name for name in state if name.startswith(f"{key}.")}
        others = {name: value for name, value in state.items() if name not in averages and name not in COUNTERS}
        if averages and others:
            return others, key
    return state, ""


def _steps(state: State) -> Iterator[Named]:
    """The same tensors without what training put in front of their names or in between: less in each step."""
    off = ""
    while True:
        yield off, state
        within = {".".join(part for part in name.split(".") if part not in WRAPPERS): v for name, v in state.items()}
        if within.keys() != state.keys():
            parts = {part for name in state for part in name.split(".")}
            state, off = within, off + "".join(f"{part}." for part in sorted(WRAPPERS & parts))
            continue
        prefix = next((one for one in PREFIXES if _all_begin(state, one)), "")
        if not prefix:
            return
        state = {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
        off += prefix


def _all_begin(state: State, prefix: str) -> bool:
    """Whether all names begin so, apart from counters of averaging."""
    others = {name for name in state if not name.startswith(prefix)}
    return len(others) < len(state) and others <= COUNTERS


def _classes(content: object) -> tuple[str, ...]:
    """Names of the classes by row, where a checkpoint states them in a usual form."""
    given = [content.get(name) for name in CLASS_NAMES] if isinstance(content, Mapping) else []
    stated = next((one for one in given if isinstance(one, Mapping | list | tuple) and one), ())
    if isinstance(stated, Mapping):
        # name -> row, or row -> name
        by_row = {row: name for name, row in stated.items() if isinstance(row, int)} or dict(stated)
        if sorted(by_row, key=str) != sorted(range(len(by_row)), key=str):
            return ()
        stated = [by_row[row] for row in range(len(by_row))]
    return tuple(stated) if all(isinstance(one, str) for one in stated) else ()


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
