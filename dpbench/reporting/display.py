"""The live display of a run: cells done, running and failed, what the stage does, time left."""

from __future__ import annotations

import time
from collections import defaultdict
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dpbench.records.record import Record
from dpbench.running.watching import State
from dpbench.suite.cell import CellSpec
from dpbench.suite.words import label, ssim_text
from dpbench.text.shown_text import ERROR_LIMIT, clean

RECENT = 6


class Display:
    """Follows a run on a terminal; elsewhere prints one line per finished cell.

    Args:
        console: where to draw.
        cells: the plan, in order; the time left is estimated from the cells that ran.
    """

    def __init__(self, console: Console, cells: list[CellSpec]) -> None:
        self.console = console
        self.waiting = list(cells)
        self.total = len(cells)
        self.counts: dict[State, int] = {"cached": 0, "ok": 0, "failed": 0}
        self.running: CellSpec | None = None
        self.stage = "looking at the data"
        self.stage_began = time.monotonic()
        self.recent: list[str] = []
        self.began = time.monotonic()
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def started(self, part: CellSpec) -> None:
        """A cell begins."""
        self.running = part
        self.progress("starting")

    def progress(self, text: str) -> None:
        """What the running stage does."""
        if text != self.stage:
            self.stage, self.stage_began = text, time.monotonic()

    def finished(self, part: CellSpec, state: State, record: Record) -> None:
        """A cell has its record."""
        self.running = None
        self.counts[state] += 1
        if part in self.waiting:
            self.waiting.remove(part)
        if state == "cached":
            return
        spent = sum(record.seconds.values())
        self.seconds[part.attack.name].append(spent)
        if state == "failed":
            line = f"failed  {clean(label(part))}: {clean(record.error, ERROR_LIMIT)}"
        else:
            line = f"{spent:6.1f} s  {clean(label(part))}: {ssim_text(record.fidelity, decimals=3)}"
        self.recent = [*self.recent, line][-RECENT:]
        if not self.console.is_terminal:
            done = sum(self.counts.values())
            self.console.print(f"[{done}/{self.total}] {line}", markup=False, highlight=False, soft_wrap=True)

    def seconds_left(self) -> float | None:
        """Estimate from the mean time of cells with the same attack; None before any cell has run."""
        everything = [value for values in self.seconds.values() for value in values]
        if not everything:
            return None
        mean = sum(everything) / len(everything)
        known = {name: sum(values) / len(values) for name, values in self.seconds.items()}
        return sum(known.get(cell.attack.name, mean) for cell in self.waiting)

    def _render(self) -> RenderableType:
        done = sum(self.counts.values())
        left = self.seconds_left()
        head = Table.grid(padding=(0, 2))
        numbers = Text.assemble(
            (f"{done}", "bold"),
            f" of {self.total} cells",
            f"   {self.counts['cached']} from before" if self.counts["cached"] else "",
            f"   {1 if self.running else 0} running",
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
        if self.running is not None:
            rows.append(Text(clean(label(self.running)), style="bold", no_wrap=True, overflow="ellipsis"))
        rows.append(Text(f"  {clean(self.stage)} ({_clock(time.monotonic() - self.stage_began)})", style="cyan"))
        return Group(*rows)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
