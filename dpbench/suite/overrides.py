"""What a command line changes in a suite, and which of its parts it picks; alike in every protocol."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from dpbench.contract.spec import LARGEST_SEED
from dpbench.contract.threat import BUDGETS
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError, unknown


def overrides(dataset: DatasetSpec, *, data: str | None, seed: int | None, budget: str | None) -> dict[str, object]:
    """Fields of a suite that `--data`, `--seed` and `--budget` replace; None leaves a field as it is.

    Raises:
        DpbenchError: a seed that no generator takes, or no such budget.
    """
    changes: dict[str, object] = {}
    if data is not None:
        changes["dataset"] = dataset.model_copy(update={"name": data})
    if seed is not None:
        if not 0 <= seed <= LARGEST_SEED:
            raise DpbenchError(f"--seed {seed} is {'negative' if seed < 0 else 'too large'}; expected 0 to 2^63 - 1")
        changes["seeds"] = [seed]
    if budget is not None:
        if budget not in BUDGETS:
            raise unknown("budget", budget, BUDGETS)
        changes["budget"] = budget
    return changes


def matches_any(pattern: str, names: Sequence[str]) -> bool:
    """Whether a shell pattern matches any of a unit's names.

    It occurs anywhere in the first, which is what is shown; or is the last, an id, in full; or it names a parameter,
    such as `steps=20`, and occurs in one between, where parameters stand that are not shown.
    """
    shown, *between, name = names
    return (
        pattern == name
        or fnmatch.fnmatchcase(shown, f"*{pattern}*")
        or ("=" in pattern and any(fnmatch.fnmatchcase(one, f"*{pattern}*") for one in between))
    )
