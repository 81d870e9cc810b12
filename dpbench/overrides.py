"""What a command line changes in a suite, and which of its parts it picks; alike in every protocol."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from dpbench.errors import DpbenchError, unknown
from dpbench.specs import DatasetSpec
from dpbench.types import BUDGETS


def overrides(dataset: DatasetSpec, *, data: str | None, seed: int | None, budget: str | None) -> dict[str, object]:
    """Fields of a suite that `--data`, `--seed` and `--budget` replace; None leaves a field as it is.

    Raises:
        DpbenchError: a negative seed, or no such budget.
    """
    changes: dict[str, object] = {}
    if data is not None:
        changes["dataset"] = dataset.model_copy(update={"name": data})
    if seed is not None:
        if seed < 0:
            raise DpbenchError(f"--seed {seed} is negative; expected 0 or more")
        changes["seeds"] = [seed]
    if budget is not None:
        if budget not in BUDGETS:
            raise unknown("budget", budget, BUDGETS)
        changes["budget"] = budget
    return changes


def occurs(pattern: str, names: Iterable[str]) -> bool:
    """Whether a shell pattern occurs anywhere in one of the names."""
    return any(fnmatch.fnmatchcase(name, f"*{pattern}*") for name in names)
