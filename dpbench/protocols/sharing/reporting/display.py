"""What a person sees while a sharing suite runs: what is done, what runs now, the time left."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dpbench.protocols.sharing.records import SharingRecord
from dpbench.protocols.sharing.units import Unit
from dpbench.running.watching import State
from dpbench.suite.words import ssim_text
from dpbench.text.shown_text import ERROR_LIMIT, clean


class SharingDisplay:
    """Follows a run on a terminal; elsewhere prints one line per finished unit.

    Args:
        console: where to draw.
        units: how many there are.
    """

    def __init__(self, console: Console, units: int) -> None:
        self.console = console
        self.units = units
        self.done = 0
        self.running = ""
        columns = (BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("{task.description}", markup=False), console=console, transient=True)
        self._task = self._bar.add_task("looking at the data", total=units)

    def __enter__(self) -> SharingDisplay:
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def started(self, part: Unit) -> None:
        """A unit begins."""
        self.running = clean(part.label)
        self.progress("starting")

    def progress(self, text: str) -> None:
        """What the running stage does."""
        self._bar.update(self._task, description=f"{self.running}: {clean(text)}" if self.running else clean(text))

    def finished(self, part: Unit, state: State, record: SharingRecord) -> None:
        """A unit has its record."""
        self.done += 1
        self._bar.update(self._task, completed=self.done)
        if state == "cached":
            return
        done = state != "failed"  # what failed has no figures to show
        name = clean(part.label)
        failed = f"failed  {name}: {clean(record.error, ERROR_LIMIT)}"
        line = f"{_spent(record)}  {name}: {_said(record)}" if done else failed
        style = "red" if state == "failed" else "dim"
        shown = line if self.console.is_terminal else f"[{self.done}/{self.units}] {line}"
        self.console.print(shown, style=style, markup=False, highlight=False, soft_wrap=True)


def _spent(record: SharingRecord) -> str:
    return f"{sum(record.seconds.values()):6.1f} s"


def _said(record: SharingRecord) -> str:
    if record.trained is not None:
        return f"top-1 {sum(record.trained.correct) / len(record.trained.correct):.1%}"
    return ssim_text(record.fidelity, decimals=3)
