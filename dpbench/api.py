"""`dpbench.run`: the whole path from Python."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from dpbench.leaderboard import build_board
from dpbench.runner import CellWatcher, execute, make_plan
from dpbench.suite import Suite


def run(
    suite: str | Suite = "quick",
    *,
    data: str | None = None,
    output: Path | str | None = None,
    device: str = "auto",
    only: str | None = None,
    seed: int | None = None,
    shifted: str | None = None,
    budget: str | None = None,
    weights: str | Path | None = None,
    batch_size: int | None = None,
    watcher: CellWatcher | None = None,
) -> pd.DataFrame:
    """Run a suite, or what of it is not finished, and return its board.

    Args:
        suite: a built-in name ("quick"), a path of a TOML file, or a `Suite`.
        data: overrides the suite's data set: a folder of class folders, `leaves`, `spectra`, `torch/...`, `hfds/...`.
        output: the run directory; by default `dpbench-runs/NAME`.
        device: auto, cpu, cuda or mps.
        only: keeps cells in whose label this shell pattern occurs.
        seed: overrides the suite's seeds.
        shifted: overrides the data set of the shifted auxiliary images.
        budget: small, standard or large: overrides what the attacks may spend.
        weights: overrides those of the suite's only backbone: a file, auto, pretrained or fit.
        batch_size: at most so many images in a network at once; None: from their size and the device's memory.
        watcher: follows the run, see `dpbench.watching.Watcher`.

    Returns:
        One row per cell and one `worst-case` row per defense setting; columns in `leaderboards/README.md`.

    Raises:
        DpbenchError: input that cannot be used; finished cells are kept.
    """
    plan = make_plan(
        suite,
        data=data,
        output=output,
        only=only,
        seed=seed,
        shifted=shifted,
        budget=budget,
        weights=None if weights is None else str(weights),
    )
    return build_board(execute(plan, device=device, batch_size=batch_size, watcher=watcher))
