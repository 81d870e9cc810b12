"""The runs in a folder: which there are, how far they are, and their records, read again only where they changed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpbench.errors import DpbenchError
from dpbench.protocols.known import AnyProtocol, of_run
from dpbench.records.progress import NAME, Progress
from dpbench.records.record import Envelope

DEEPEST = 4
"""Folders within folders that are looked into."""

MOST = 500
"""Runs that are listed."""

QUIET_S = 1800
"""A run that has not come to its end, and has written nothing for so long, may have been stopped."""


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        name: its path below the folder that is looked at.
        folder: the directory.
        protocol: whose records it holds.
        files: its records.
        planned: how many units it set out to measure; None where it does not say.
        done: those of them that have a record.
        changed: when it was last written to, in seconds since the epoch.
    """

    name: str
    folder: Path
    protocol: AnyProtocol
    files: tuple[Path, ...]
    planned: int | None
    done: int
    changed: float

    @property
    def finished(self) -> bool:
        """Whether all that it set out to measure has a record."""
        return self.planned is not None and self.done >= self.planned

    @property
    def going(self) -> bool:
        """Whether it seems to go on."""
        return self.planned is not None and not self.finished and time.time() - self.changed < QUIET_S

    @property
    def state(self) -> str:
        """How far it is, in words."""
        if self.planned is None:
            return f"{len(self.files)} records"
        counted = f"{self.done} of {self.planned} {self.protocol.unit}s"
        if self.finished:
            return f"finished: {counted}"
        return f"going on: {counted}" if self.going else f"stopped, or stuck: {counted}"


def find(root: Path) -> dict[str, Run]:
    """The runs in a folder, or itself, by name; links are not followed.

    Raises:
        DpbenchError: no such folder.
    """
    if not root.is_dir():
        raise DpbenchError(
            f"{root} is no folder: expected one that holds run directories, as `dpbench run` writes them"
        )
    found: dict[str, Run] = {}
    for place, folders, _ in os.walk(root):
        folder = Path(place)
        depth = len(folder.relative_to(root).parts)
        run = _run(root, folder)
        if run is not None:
            found[run.name] = run
        # what lies in a run is no run
        folders[:] = [] if run is not None or depth >= DEEPEST else sorted(f for f in folders if not f.startswith("."))
        if len(found) >= MOST:
            break
    return found


def _run(root: Path, folder: Path) -> Run | None:
    try:
        protocol = of_run(folder)
        files = tuple(protocol.store.files(folder))
        progress = Progress.read(folder)
        times = [path.stat().st_mtime for path in (*files, folder / NAME) if path.is_file()]
    except (DpbenchError, OSError):
        return None
    if not files and progress is None:
        return None  # a folder of runs that is called as records are: `dpbench run sharing` makes one
    return Run(
        name=folder.relative_to(root).as_posix() if folder != root else folder.resolve().name or "run",
        folder=folder,
        protocol=protocol,
        files=files,
        planned=None if progress is None else len(progress.units),
        done=0 if progress is None else len(progress.units) - progress.left(files),
        changed=max(times, default=folder.stat().st_mtime),
    )


class Reader:
    """Reads records once, and again where their files changed; several requests may ask at the same time."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int], Any]] = {}
        self._lock = threading.Lock()

    def records(self, run: Run) -> tuple[list[Envelope], list[str]]:
        """The records of a run, and what cannot be read of it, a line each."""
        found: list[Envelope] = []
        wrong: list[str] = []
        with self._lock:
            for path in run.files:
                try:
                    found.append(self._record(path, run))
                except (DpbenchError, OSError) as error:
                    wrong.append(str(error))
        return found, wrong

    def _record(self, path: Path, run: Run) -> Any:
        state = path.stat()
        mark = state.st_mtime_ns, state.st_size
        known = self._known.get(path)
        if known is None or known[0] != mark:
            known = mark, run.protocol.store.read(path)
            self._known[path] = known
        return known[1]


def mark_of(run: Run) -> tuple[Any, ...]:
    """Equal as long as nothing of a run changed."""
    return run.name, run.changed, len(run.files)


def newest(records: Sequence[Envelope], count: int = 12) -> list[Envelope]:
    """The last records, newest first."""
    return sorted(records, key=lambda record: record.created, reverse=True)[:count]
