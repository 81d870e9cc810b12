"""Arrays in a file that somebody hands in: safetensors, or an .npz of numpy."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import safetensors
import torch
from torch import Tensor

DAMAGED = (
    *(safetensors.SafetensorError, zipfile.BadZipFile, zlib.error),
    *(EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError),
)
"""What the readers raise of a file that is cut short, altered, encrypted, or holds something else than numbers."""


def read_arrays(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Arrays by name, and what a safetensors file says of them; no code in the file is run.

    Raises:
        ValueError: it cannot be read; the reason in a line.
    """
    try:
        if zipfile.is_zipfile(path):
            with np.load(path, allow_pickle=False) as content:
                return {name: torch.from_numpy(content[name]) for name in content.files}, {}
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})
    except DAMAGED as error:
        raise ValueError((str(error).splitlines() or [type(error).__name__])[0][:120]) from error
