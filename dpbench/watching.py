"""Who follows a run: what a runner tells, whichever protocol it runs."""

from __future__ import annotations

from typing import Literal, Protocol, TypeVar

State = Literal["cached", "ok", "failed"]

Part = TypeVar("Part", contravariant=True)
Kept = TypeVar("Kept", contravariant=True)


class Watcher(Protocol[Part, Kept]):
    """The live display, or nobody: of cells and `Record`s, or of units and `SharingRecord`s."""

    def started(self, part: Part) -> None:
        """A cell or unit begins."""

    def progress(self, text: str) -> None:
        """What the running stage does."""

    def finished(self, part: Part, state: State, record: Kept) -> None:
        """A cell or unit has its record."""


class Nobody:
    """A watcher that looks away."""

    def started(self, part: object) -> None:
        """Nothing."""

    def progress(self, text: str) -> None:
        """Nothing."""

    def finished(self, part: object, state: State, record: object) -> None:
        """Nothing."""
