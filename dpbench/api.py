"""`dpbench.run`: the whole path from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from dpbench.board.leaderboard import build_board
from dpbench.protocols.sharing import records as sharing_records
from dpbench.protocols.sharing.reporting.board import build_sharing_board
from dpbench.protocols.sharing.runner import execute_sharing, make_sharing_plan, refuse_shifted
from dpbench.protocols.sharing.suite import SharingSuite
from dpbench.records.store import restore_records
from dpbench.running.runner import execute, make_plan
from dpbench.running.watching import Watcher
from dpbench.suite.files import protocol_of
from dpbench.suite.suite import Suite


def run(
    suite: str | Suite | SharingSuite = "quick",
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
    audit: bool = False,
    watcher: Watcher[Any, Any] | None = None,
) -> pd.DataFrame:
    """Run a suite, or what of it is not finished, and return its board.

    Args:
        suite: a built-in name ("quick"), a path of a TOML file, or what such a file holds.
        data: overrides the suite's data set: a folder of class folders, `leaves`, `spectra`, `torch/...`, `hfds/...`.
        output: the run directory; by default `dpbench-runs/NAME`.
        device: auto, cpu, cuda or mps.
        only: keeps cells in whose label this shell pattern occurs.
        seed: overrides the suite's seeds.
        shifted: overrides the data set of the shifted auxiliary images.
        budget: small, standard or large: overrides what the attacks may spend.
        weights: overrides those of the suite's only backbone: a file, auto, pretrained or fit.
        batch_size: at most so many images in a network at once; None: from their size and the device's memory.
        audit: every plug-in runs in processes of its own, dpbench's too; those from files and other packages always do.
        watcher: follows the run, see `dpbench.running.watching.Watcher`.

    Returns:
        One row per cell and one `worst-case` row per defense setting; of a suite of the protocol `sharing` one row per
        condition and defense setting. Columns in `leaderboards/README.md`.

    Raises:
        DpbenchError: input that cannot be used; finished cells are kept.
    """
    settings: dict[str, Any] = {"data": data, "output": output, "only": only, "seed": seed, "budget": budget}
    weights = None if weights is None else str(weights)
    if isinstance(suite, SharingSuite) or (isinstance(suite, str) and protocol_of(suite) == "sharing"):
        refuse_shifted(shifted)
        sharing = make_sharing_plan(suite, weights=weights, **settings)
        units = execute_sharing(sharing, device=device, batch_size=batch_size, audit=audit, watcher=watcher)
        sharing_records.restore_records(sharing.output, units)
        return build_sharing_board(units)
    plan = make_plan(suite, shifted=shifted, weights=weights, audit=audit, **settings)
    records = execute(plan, device=device, batch_size=batch_size, audit=audit, watcher=watcher)
    restore_records(plan.output, records)
    return build_board(records)
