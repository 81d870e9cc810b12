"""The parts of a run in turn, and who follows them, whichever protocol it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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


class _Part(Protocol):
    @property
    def id(self) -> str: ...


class _Kept(Protocol):
    status: Literal["ok", "failed"]


P = TypeVar("P", bound=_Part)
R = TypeVar("R", bound=_Kept)


def in_turn(parts: Iterable[P], finished: Mapping[str, R], run: Callable[[P], R], watcher: Watcher[P, R]) -> list[R]:
    """One record per cell or unit, in their order: of those that are finished by id, of the others what `run` gives."""
    records = []
    for part in parts:
        record = finished.get(part.id)
        if record is not None:
            watcher.finished(part, "cached", record)
        else:
            watcher.started(part)
            record = run(part)
            watcher.finished(part, record.status, record)
        records.append(record)
    return records
