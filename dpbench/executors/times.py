"""How long units of each kind took in earlier runs, and what they needed: a small file in the cache."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dpbench.machine.locks import held
from dpbench.machine.writing import Unwritable, write_atomically


@dataclass(frozen=True)
class Spent:
    """What units of one kind took: sums over `count` of them, and the most memory that one of them had.

    Attributes:
        count: of units.
        seconds: together.
        disk: bytes of their files, together.
        memory: bytes at most.
    """

    count: int = 0
    seconds: float = 0.0
    disk: float = 0.0
    memory: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.count + other.count,
            self.seconds + other.seconds,
            self.disk + other.disk,
            max(self.memory, other.memory),
        )


class Times:
    """Of one suite, by kind of unit; where the suite has never run, of all suites.

    Args:
        cache: the cache folder.
        suite: protocol and name.
    """

    def __init__(self, cache: Path, suite: str) -> None:
        self.path = cache / "times.json"
        self.suite = suite

    def add(self, measured: dict[str, Spent]) -> None:
        """Remember what units of a kind took, beside what is known."""
        if not measured:
            return
        with contextlib.suppress(Unwritable), held(self.path.with_suffix(".lock")):  # an estimate is worth no failure
            known = self._read()
            own = known.setdefault(self.suite, {})
            for kind, spent in measured.items():
                own[kind] = own.get(kind, Spent()) + spent
            told = {suite: {kind: asdict(one) for kind, one in kinds.items()} for suite, kinds in known.items()}
            text = json.dumps(told, indent=1) + "\n"
            write_atomically(self.path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def expected(self, kinds: Iterable[str]) -> tuple[Spent, int]:
        """What units of these kinds will take together, and how many of them nothing is known of."""
        known = self._read()
        everywhere: dict[str, Spent] = {}
        for of_suite in known.values():
            for kind, spent in of_suite.items():
                everywhere[kind] = everywhere.get(kind, Spent()) + spent
        own, total, unknown = known.get(self.suite, {}), Spent(), 0
        for kind in kinds:
            spent = own.get(kind) or everywhere.get(kind) or Spent()
            if not spent.count:
                unknown += 1
                continue
            total += Spent(1, spent.seconds / spent.count, spent.disk / spent.count, spent.memory)
        return total, unknown

    def _read(self) -> dict[str, dict[str, Spent]]:
        """What the file says; what is no number in it counts as not said."""
        try:
            told = json.loads(self.path.read_text(encoding="utf-8"))
            return {suite: {kind: _sound(one) for kind, one in kinds.items()} for suite, kinds in told.items()}
        except (OSError, ValueError, AttributeError, TypeError, RecursionError):
            return {}


def _sound(told: dict[str, Any]) -> Spent:
    if not all(isinstance(value, int | float) and 0 <= value < math.inf for value in told.values()):
        raise ValueError("no numbers")
    return Spent(**told)
