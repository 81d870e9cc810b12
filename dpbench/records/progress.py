"""How far a run is: which units it set out to measure, and whether it came to its end; for whoever follows it."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from dpbench.machine.writing import write_atomically

NAME = "progress.json"

LARGEST_BYTES = 50_000_000
"""A longer file is not read: nobody plans so many units."""


class Progress(BaseModel):
    """What `NAME` in a run directory says.

    Attributes:
        units: ids of those that the run consists of, finished ones too.
        started: when the last `dpbench run` began.
        ended: when it came to its end; empty while it goes on, and where it was stopped.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    units: list[str]
    started: str
    ended: str = ""

    @classmethod
    def begin(cls, run_dir: Path, units: Iterable[str]) -> Progress:
        """Say that a run begins."""
        progress = cls(units=list(units), started=_now())
        progress._write(run_dir)
        return progress

    def end(self, run_dir: Path) -> None:
        """Say that it came to its end."""
        self.model_copy(update={"ended": _now()})._write(run_dir)

    @classmethod
    def read(cls, run_dir: Path) -> Progress | None:
        """What the run says of itself; None where it says nothing that can be read, as those of before."""
        path = run_dir / NAME
        try:
            if path.stat().st_size > LARGEST_BYTES:
                return None
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError, UnicodeDecodeError):
            return None

    def _write(self, run_dir: Path) -> None:
        text = json.dumps(self.model_dump(), indent=1) + "\n"
        write_atomically(run_dir / NAME, lambda path: path.write_text(text, encoding="utf-8", newline="\n"))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
