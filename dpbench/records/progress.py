"""Which units a run set out to measure: whoever follows it sees by their records how far it is."""

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
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    units: list[str]
    started: str

    @classmethod
    def begin(cls, run_dir: Path, units: Iterable[str]) -> None:
        """Say that a run begins."""
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        text = json.dumps(cls(units=list(units), started=started).model_dump(), indent=1) + "\n"
        write_atomically(run_dir / NAME, lambda path: path.write_text(text, encoding="utf-8", newline="\n"))

    def left(self, files: Iterable[Path]) -> int:
        """How many of the units have no record among these files."""
        there = {path.stem for path in files}
        return sum(unit not in there for unit in self.units)

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
