"""Who follows a run."""

from __future__ import annotations

from typing import Any, Literal, Protocol, TypeVar

State = Literal["cached", "ok", "failed"]
"""How a unit came by its record: it was there, or was measured, or could not be."""

Part = TypeVar("Part", contravariant=True)
Kept = TypeVar("Kept", contravariant=True)


class Watcher(Protocol[Part, Kept]):
    """Receives a run's events; the live display implements it."""

    def started(self, part: Part) -> None:
        """A unit begins."""

    def progress(self, text: str, part: Part) -> None:
        """What is done for a unit just now; empty where it is something that units share, and done."""

    def finished(self, part: Part, state: State, record: Kept) -> None:
        """A unit has its record."""


class Nobody:
    """A watcher that looks away."""

    def started(self, part: object) -> None:
        """Nothing."""

    def progress(self, text: str, part: object) -> None:
        """Nothing."""

    def finished(self, part: object, state: State, record: object) -> None:
        """Nothing."""


class Several:
    """Watchers that follow one run together.

    Args:
        watchers: each is told everything, in this order.
    """

    def __init__(self, *watchers: Watcher[Any, Any]) -> None:
        self.watchers = watchers

    def started(self, part: object) -> None:
        """A unit begins."""
        for watcher in self.watchers:
            watcher.started(part)

    def progress(self, text: str, part: object) -> None:
        """What the running stage does."""
        for watcher in self.watchers:
            watcher.progress(text, part)

    def finished(self, part: object, state: State, record: object) -> None:
        """A unit has its record."""
        for watcher in self.watchers:
            watcher.finished(part, state, record)
