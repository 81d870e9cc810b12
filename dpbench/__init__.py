"""dpbench: do image features leak the image?

Task accuracy beside reconstruction fidelity, for every pairing of a defense with an attack:

    >>> import dpbench
    >>> board = dpbench.run("quick")              # a pandas DataFrame, one row per cell
    >>> figures = dpbench.load_records("dpbench-runs/quick")  # one row per victim

Names are imported when they are first used: `import dpbench` alone does not import torch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dpbench.api import run as run
    from dpbench.errors import DpbenchError as DpbenchError
    from dpbench.leaderboard import build_board as build_board
    from dpbench.leaderboard import load_records as load_records
    from dpbench.parameters import File as File
    from dpbench.registry import register as register
    from dpbench.types import Attack as Attack
    from dpbench.types import Defense as Defense
    from dpbench.types import LabelledImages as LabelledImages
    from dpbench.types import Observation as Observation
    from dpbench.types import ProtectedModel as ProtectedModel
    from dpbench.types import SplitModel as SplitModel

# torch reads this at its first allocation: with pages of 2 MB, images of 224 pixels take half the time on Linux
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

_HOMES = {
    "run": "api",
    "DpbenchError": "errors",
    "File": "parameters",
    "build_board": "leaderboard",
    "load_records": "leaderboard",
    "register": "registry",
    "Attack": "types",
    "Defense": "types",
    "LabelledImages": "types",
    "Observation": "types",
    "ProtectedModel": "types",
    "SplitModel": "types",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'dpbench' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dpbench.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
