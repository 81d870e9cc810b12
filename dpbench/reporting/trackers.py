"""Records for those who follow runs elsewhere: what attacks logged, and what came out, for TensorBoard and W&B."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from dpbench.data.images import Pixels
from dpbench.errors import DpbenchError, debug, reason, unknown
from dpbench.records.pictures import frames_of
from dpbench.records.record import Envelope
from dpbench.text.curves import CURVES, MOST_CURVES, MOST_POINTS, is_figure
from dpbench.text.shown_text import ERROR_LIMIT, clean

SHOWN = "shown"
"""What the images are called that an attack showed while it ran."""


class Tracker(Protocol):
    """Follows a run, see `dpbench.running.watching.Watcher`: takes each record when it is there."""

    def started(self, part: object) -> None:
        """A unit begins."""

    def progress(self, text: str, part: object) -> None:
        """What the running stage does."""

    def finished(self, part: object, state: str, record: Envelope) -> None:
        """A unit has its record."""


Points = list[tuple[str, int, float]]
"""Name, step, figure."""

Take = Callable[[str, Points, dict[int, Pixels]], None]
"""Is given a record's id, its points, and step -> image (h,w,3) uint8 of what its attack showed."""


class _Tracking:
    """Hands on the points and images of new records.

    A program that fails is told nothing more; the run goes on.

    Args:
        name: what `--track` calls the program.
        run_dir: where their files lie.
        take: the program.
    """

    def __init__(self, name: str, run_dir: Path, take: Take) -> None:
        self._name = name
        self._run_dir = run_dir
        self._take: Take | None = take

    def started(self, part: object) -> None:
        """Nothing: only records are handed on."""

    def progress(self, text: str, part: object) -> None:
        """Likewise."""

    def finished(self, part: object, state: str, record: Envelope) -> None:
        """Hand on what the attack logged, and the mean of each metric; of what was there already nothing."""
        if state == "cached" or self._take is None:
            return
        try:
            self._take(clean(record.id), list(points_of(record)), frames_of(self._run_dir, record))
        except Exception as error:  # whatever a program raises whose server or disk is gone
            self._take = None
            debug(error)
            told = clean(reason(error), ERROR_LIMIT)
            print(f"dpbench: --track {self._name} follows no longer: {told}; the run goes on", file=sys.stderr)


def points_of(record: Envelope) -> Iterator[tuple[str, int, float]]:
    """Name, step and figure of all that a record can draw: its curves, and at step 0 its means.

    Nobody vouches for what an attack noted: what is no curve is left out.
    """
    curves = record.notes.get(CURVES)
    for name, curve in list(curves.items())[:MOST_CURVES] if isinstance(curves, dict) else ():
        for point in curve[:MOST_POINTS] if isinstance(curve, list) else ():
            if isinstance(point, list) and len(point) == 2 and all(map(is_figure, point)):
                yield f"curves/{clean(name, 60)}", int(point[0]), float(point[1])
    for name, values in record.fidelity.items():
        if values:
            yield f"mean/{clean(name, 60)}", 0, sum(values) / len(values)


def _tensorboard(run_dir: Path) -> Tracker:
    writers = _imported("torch.utils.tensorboard", "tensorboard", "tensorboard")

    def take(name: str, points: Points, frames: dict[int, Pixels]) -> None:
        with writers.SummaryWriter(log_dir=str(run_dir / "tensorboard" / name)) as writer:
            for tag, step, figure in points:
                writer.add_scalar(tag, figure, step)
            for step, image in frames.items():
                writer.add_image(SHOWN, image, step, dataformats="HWC")

    return _Tracking("tensorboard", run_dir, take)


def _wandb(run_dir: Path) -> Tracker:
    wandb = _imported("wandb", "wandb", "wandb")
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        run = wandb.init(project="dpbench", name=run_dir.resolve().name, dir=str(run_dir))
    except Exception as error:  # no account, no network
        raise DpbenchError(
            f"--track wandb cannot begin: {reason(error)}; `wandb login`, or WANDB_MODE=offline"
        ) from error

    def take(name: str, points: Points, frames: dict[int, Pixels]) -> None:
        run.define_metric(f"{name}/*", step_metric=f"{name}/step")
        for tag, step, figure in points:
            run.log({f"{name}/{tag}": figure, f"{name}/step": step})
        for step, image in frames.items():
            run.log({f"{name}/{SHOWN}": wandb.Image(image, caption=f"step {step}"), f"{name}/step": step})

    return _Tracking("wandb", run_dir, take)


TRACKERS: dict[str, Callable[[Path], Tracker]] = {"tensorboard": _tensorboard, "wandb": _wandb}


def _imported(module: str, package: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DpbenchError(
            f"--track {extra} needs the package {package}, which is not installed; pip install {package}"
        ) from error


def tracker(name: str, run_dir: Path) -> Tracker:
    """What follows a run for `tensorboard`, in its folder `tensorboard/`, or for `wandb`, as its own settings say.

    Raises:
        DpbenchError: another name, its package is not installed, or it cannot begin.
    """
    if name not in TRACKERS:
        raise unknown("tracker", name, TRACKERS)
    return TRACKERS[name](run_dir)
