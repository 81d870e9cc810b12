"""The command line as the tests call it: what came of a call, what a refusal is, the surroundings of a process."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Outcome:
    status: int
    out: str
    err: str


def refused(outcome: Outcome, *words: str) -> None:
    """One line that holds these words, and the status of bad input."""
    assert outcome.status == 2, outcome
    (line,) = outcome.err.strip().splitlines()
    assert [word for word in words if word not in line] == [], line


def environment(cache: Path, **more: str) -> dict[str, str]:
    """For subprocesses."""
    return {**os.environ, "DPBENCH_CACHE": str(cache), "COLUMNS": "120", **more}
