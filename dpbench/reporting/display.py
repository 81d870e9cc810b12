"""The live display of a run: units done, running and failed, what the stage does, time left."""

from __future__ import annotations

import time
from collections import defaultdict
from types import TracebackType
from typing import Generic, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dpbench.running.protocol import Plan, R
from dpbench.running.unit import U
from dpbench.running.watching import State
from dpbench.text.shown_text import ERROR_LIMIT, clean

RECENT = 6


class Display(Generic[U, R]):
    """Follows a run on a terminal; elsewhere prints one line per finished unit.

    Args:
        console: where to draw.
        plan: what runs, in order; the time left is estimated from the units of each kind that ran.
    """

    def __init__(self, console: Console, plan: Plan[U, R]) -> None:
        self.console = console
        self.protocol = plan.protocol
        self.waiting = {unit.id: unit for unit in plan.units}
        self.total = len(plan.units)
        self.counts: dict[State, int] = {"cached": 0, "ok": 0, "failed": 0}
        self.running: dict[str, str] = {}
        self.stages: dict[str, tuple[str, float]] = {}
        self.at_once = 1
        self.recent: list[str] = []
        self.began = time.monotonic()
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def started(self, part: U) -> None:
        """A unit begins."""
        self.running[part.id] = self._label(part)
        self.at_once = max(self.at_once, len(self.running))
        self.progress("starting", part)

    def progress(self, text: str, part: U) -> None:
        """What is done for a unit; from any thread."""
        if not text:
            self.stages.pop(part.id, None)
        elif self.stages.get(part.id, ("", 0.0))[0] != text:
            self.stages[part.id] = text, time.monotonic()

    def finished(self, part: U, state: State, record: R) -> None:
        """A unit has its record."""
        self.running.pop(part.id, None)
        self.stages.pop(part.id, None)
        self.counts[state] += 1
        self.waiting.pop(part.id, None)
        if state == "cached":
            return
        spent = sum(record.seconds.values())
        self.seconds[self.protocol.kind_of(part)].append(spent)
        if state == "failed":
            line = f"failed  {self._label(part)}: {clean(record.error, ERROR_LIMIT)}"
        else:
            line = f"{spent:6.1f} s  {self._label(part)}: {self.protocol.progress_of(record)}"
        self.recent = [*self.recent, line][-RECENT:]
        if not self.console.is_terminal:
            done = sum(self.counts.values())
            self.console.print(f"[{done}/{self.total}] {line}", markup=False, highlight=False, soft_wrap=True)

    def seconds_left(self) -> float | None:
        """Estimate from the mean time of units of the same kind, as many at once as ran; None before any has run."""
        everything = [value for values in self.seconds.values() for value in values]
        if not everything:
            return None
        mean = sum(everything) / len(everything)
        known = {name: sum(values) / len(values) for name, values in self.seconds.items()}
        alone = sum(known.get(self.protocol.kind_of(unit), mean) for unit in self.waiting.values())
        return alone / self.at_once

    def _label(self, unit: U) -> str:
        return clean(self.protocol.names_of(unit)[0])

    def _render(self) -> RenderableType:
        done = sum(self.counts.values())
        left = self.seconds_left()
        head = Table.grid(padding=(0, 2))
        numbers = Text.assemble(
            (f"{done}", "bold"),
            f" of {self.total} {self.protocol.unit}s",
            f"   {self.counts['cached']} from before" if self.counts["cached"] else "",
            f"   {len(self.running)} running",
            (f"   {self.counts['failed']} failed", "bold red") if self.counts["failed"] else "   0 failed",
            f"   {_clock(time.monotonic() - self.began)} gone",
            f"   about {_clock(left)} left" if left is not None else "",
        )
        head.add_row(ProgressBar(total=self.total, completed=done, width=24), numbers)
        rows: list[RenderableType] = [
            Text(line, style="red" if line.startswith("failed") else "dim", no_wrap=True, overflow="ellipsis")
            for line in self.recent
        ]
        rows.append(head)
        stages = dict(self.stages)
        for name, label in list(self.running.items())[:RECENT]:
            rows.append(Text(label, style="bold", no_wrap=True, overflow="ellipsis"))
            rows += _stage(*stages.pop(name)) if name in stages else []
        for shared in list(stages.values())[:RECENT]:
            rows += _stage(*shared)
        return Group(*rows)


def _stage(text: str, began: float) -> list[RenderableType]:
    line = f"  {clean(text)} ({_clock(time.monotonic() - began)})"
    return [Text(line, style="cyan", no_wrap=True, overflow="ellipsis")]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
