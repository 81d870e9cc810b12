"""`dpbench.run`: the whole path from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dpbench.contract.spec import Spec
from dpbench.errors import DpbenchError
from dpbench.executors.executor import Means
from dpbench.executors.known import Here
from dpbench.notebook.held import Held, holding
from dpbench.notebook.progress_bar import ProgressBar
from dpbench.protocols.known import loaded, of_run
from dpbench.running.options import Options
from dpbench.running.protocol import Plan
from dpbench.running.runner import execute, make_plan
from dpbench.running.watching import Watcher


def run(
    suite: str | Path | Spec = "quick",
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
    workers: int | None = None,
    threads: int | None = None,
    timeout: float | None = None,
    defense: Sequence[Held] = (),
    attack: Sequence[Held] = (),
    progress: bool | None = None,
    watcher: Watcher[Any, Any] | None = None,
) -> pd.DataFrame:
    """Run a suite, or what of it is not finished, and return its board.

        >>> board = dpbench.run("tiny.toml", output="runs/tiny", device="cpu")
        >>> sorted(board["attack"])  # one cell, and what is derived from it
        ['floor', 'mean-image', 'worst-case']

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
        workers: cells at once, in a process each; None: one for each of several GPUs, else this process. A script that
            asks for them guards its own start with `if __name__ == "__main__":`, as Python wants it.
        threads: that compute in each worker; None: 1 with `workers`, else all cores. Another number, other figures.
        timeout: seconds that a cell may take, in a process of its own; None: the suite's.
        defense: further ones: names, `path/to/file.py:Name`, or classes and instances that one holds, which run in this
            process with no border around them, and are measured anew each time.
        attack: likewise.
        progress: show a bar; by default in a notebook and on a terminal.
        watcher: follows the run instead, see `dpbench.running.watching.Watcher`.

    Returns:
        One row per cell and one `worst-case` row per defense setting, or what the suite's protocol has instead. Columns
        in `dpbench/guide/boards.md`.

    Raises:
        DpbenchError: input that cannot be used; finished cells are kept.
    """
    settings: dict[str, Any] = {"data": data, "output": output, "only": only, "seed": seed, "budget": budget}
    if audit and any(not isinstance(one, str) for one in (*defense, *attack)):
        raise DpbenchError("audit: classes that one holds cannot run in another process; put them into a file")
    means = _means(workers, threads, timeout, [*defense, *attack])
    with holding(defense, attack) as (defenses, attacks):
        held = {"defenses": defenses, "attacks": attacks}
        prepared = plan(suite, shifted=shifted, weights=weights, audit=audit, **settings, **held)
        with ProgressBar(prepared, progress if watcher is None else False) as bar:
            how: dict[str, Any] = {"device": device, "batch_size": batch_size, "audit": audit, "means": means}
            records = execute(prepared, watcher=watcher or bar, **how)
    prepared.protocol.store.restore(prepared.output, records)
    return prepared.protocol.board(records)


def _means(workers: int | None, threads: int | None, timeout: float | None, given: Sequence[Held]) -> Means:
    """With what to run: what one holds is known to this process alone."""
    if all(isinstance(one, str) for one in given):
        return Means(workers=workers, threads=threads, timeout=timeout)
    if workers not in (None, 1) or timeout is not None:
        raise DpbenchError("workers, timeout: classes that one holds run in this process; put them into a file")
    return Means(executor=Here.name, threads=threads)


def plan(suite: str | Path | Spec = "quick", *, weights: str | Path | None = None, **options: Any) -> Plan[Any, Any]:
    """What `run` would do: the units of a suite, and which are finished. Computes nothing.

    Args:
        suite: as for `run`.
        weights: likewise.
        options: fields of `dpbench.running.options.Options`.

    Raises:
        DpbenchError: anything in the suite that cannot be run.
    """
    protocol, chosen = loaded(suite)
    given = Options(weights=None if weights is None else str(weights), **options)
    return make_plan(protocol, chosen, given)


def load_records(run_dir: str | Path) -> pd.DataFrame:
    """Per-image figures of a run: one row per cell, or attack of another protocol, and victim.

    Columns for cells: those that name the row, `status`, `error`, `cell`, `floor`, `accuracy` of the defense, `victim`
    (its place), `victim_hash`, `correct` (top-1 on it), `mse`, `psnr_db` (at most 80), `ssim`, `lpips`, `reid_rank`
    (how many test images are at least as near: 0 is a match), `identity_rank` (likewise of classes), `label_read`. A
    failed cell is one row without figures.

        >>> figures = dpbench.load_records("runs/tiny")
        >>> figures[["attack", "victim"]].iloc[0].to_dict()
        {'attack': 'mean-image', 'victim': 0}

    Raises:
        DpbenchError: not a run directory, or a record in it cannot be read.
    """
    protocol = of_run(Path(run_dir))
    return protocol.figures(protocol.store.counted([Path(run_dir)], protocol.newest))
