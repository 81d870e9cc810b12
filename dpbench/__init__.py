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
    from dpbench.api import load_records as load_records
    from dpbench.api import run as run
    from dpbench.board.leaderboard import build_board as build_board
    from dpbench.contract.attack import Attack as Attack
    from dpbench.contract.attack import Observation as Observation
    from dpbench.contract.dataset import ImageSet as ImageSet
    from dpbench.contract.defense import AdditiveNoise as AdditiveNoise
    from dpbench.contract.defense import Defense as Defense
    from dpbench.contract.defense import ProtectedModel as ProtectedModel
    from dpbench.contract.defense import SplitModel as SplitModel
    from dpbench.contract.feature_transform import FeatureTransform as FeatureTransform
    from dpbench.contract.images import LabelledImages as LabelledImages
    from dpbench.contract.metric import Metric as Metric
    from dpbench.contract.plugin import File as File
    from dpbench.errors import DpbenchError as DpbenchError
    from dpbench.notebook.evaluation import evaluate as evaluate
    from dpbench.notebook.results import Results as Results
    from dpbench.plugins.registry import register as register
    from dpbench.suite.suite import Suite as Suite

__version__ = "0.22.0"
"""Also of the distribution, and in every record: stated here, so that a pulled checkout tells the code that it runs."""

# torch reads this at its first allocation: with pages of 2 MB, images of 224 pixels take half the time on Linux
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

_HOMES = {
    "run": "api",
    "evaluate": "notebook.evaluation",
    "DpbenchError": "errors",
    "File": "contract.plugin",
    "build_board": "board.leaderboard",
    "load_records": "api",
    "register": "plugins.registry",
    "AdditiveNoise": "contract.defense",
    "Attack": "contract.attack",
    "Defense": "contract.defense",
    "ImageSet": "contract.dataset",
    "FeatureTransform": "contract.feature_transform",
    "LabelledImages": "contract.images",
    "Metric": "contract.metric",
    "Observation": "contract.attack",
    "ProtectedModel": "contract.defense",
    "Results": "notebook.results",
    "SplitModel": "contract.defense",
    "Suite": "suite.suite",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'dpbench' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dpbench.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
