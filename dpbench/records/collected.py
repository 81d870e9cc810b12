"""Records of many units: in memory while they are few, else in their files, read whenever they are asked for."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, overload

from pydantic import BaseModel

from dpbench.records.record import Envelope

R = TypeVar("R", bound=Envelope)
S = TypeVar("S")
U = TypeVar("U")
M = TypeVar("M", bound=BaseModel)

HELD = 4096
"""Records that are held in memory. Of more only a head is held each: reading one again takes about a millisecond."""


class SharedParts:
    """Holds once what many records say alike: victims, environment, settings, the accuracy of a defense.

    Records are read, never changed: nobody notices.
    """

    OWN = ("fidelity", "notes", "recognition", "seconds")
    """Fields in which hardly two records are equal."""

    def __init__(self) -> None:
        self._known: dict[bytes, object] = {}
        self._given: dict[frozenset[str], set[str]] = {}

    def of(self, record: R) -> R:
        """The same record, with the parts of earlier ones where they are equal."""
        parts = {name: value if name in self.OWN else self._one(value) for name, value in record}
        return self._made_of(record, parts | {record.UNIT: self.unit(record.unit_measured)})

    def unit(self, unit: U) -> U:
        """The same unit, likewise."""
        if not isinstance(unit, BaseModel):
            return unit
        return self._made_of(unit, {name: self._one(value) for name, value in unit})

    def _one(self, value: object) -> object:
        if not isinstance(value, BaseModel | list | tuple | dict | str):
            return value
        return self._known.setdefault(hashlib.sha256(pickle.dumps(value)).digest(), value)

    def _made_of(self, like: M, parts: dict[str, object]) -> M:
        given = self._given.setdefault(frozenset(like.model_fields_set), like.model_fields_set)
        return like.model_construct(_fields_set=given, **parts)


@dataclass(frozen=True, slots=True)
class Head:
    """What of a record says which of several counts, and where on a board it belongs.

    Attributes:
        id: as in the record, like the others.
        status: likewise.
        created: likewise.
        unit_measured: likewise.
    """

    id: str
    status: Literal["ok", "failed"]
    created: str
    unit_measured: Any


class Records(Sequence[R], Generic[R, S]):
    """Records in the order in which they were added.

    Args:
        open_again: where a record is stored -> the record, checked as ever.
        held: so many are held in memory; as soon as there are more, none is.
    """

    def __init__(self, open_again: Callable[[S], R], *, held: int = HELD) -> None:
        self._open = open_again
        self._most = held
        self._places: list[S] = []
        self._held: list[R] = []
        self._heads: list[Head] = []
        self._shared = SharedParts()

    def add(self, record: R, place: S) -> None:
        """One more, stored there."""
        self._places.append(place)
        if self.in_memory:
            self._held.append(self._shared.of(record))
            return
        for one in (*self._held, record):
            self._heads.append(Head(one.id, one.status, one.created, self._shared.unit(one.unit_measured)))
        self._held = []

    @property
    def in_memory(self) -> bool:
        """Whether the records are held, rather than read again from where they are stored."""
        return len(self._places) <= self._most

    @property
    def heads(self) -> Sequence[Head] | Sequence[R]:
        """What says which counts and where it belongs, of each; the records themselves where they are held."""
        return self._held if self.in_memory else self._heads

    def chosen(self, choose: Callable[[Iterable[Any]], Iterable[Any]]) -> Sequence[R]:
        """Those that `choose` takes, in its order.

        Args:
            choose: is given records, or their heads.
        """
        if self.in_memory:
            return list(choose(self._held))
        numbers = {id(head): number for number, head in enumerate(self._heads)}
        found: Records[R, S] = Records(self._open, held=0)
        found._heads = list(choose(self._heads))
        found._places = [self._places[numbers[id(head)]] for head in found._heads]
        return found

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[R]:
        return iter(self._held) if self.in_memory else (self._open(place) for place in self._places)

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> list[R]: ...
    def __getitem__(self, index: int | slice) -> R | list[R]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return self._held[index] if self.in_memory else self._open(self._places[index])


class RecordsById(Mapping[str, R]):
    """Records of different units, by their ids.

    Args:
        records: no two of one id.
    """

    def __init__(self, records: Sequence[R]) -> None:
        self._records = records
        self._numbers = {head.id: number for number, head in enumerate(heads_of(records))}

    def __getitem__(self, name: str) -> R:
        return self._records[self._numbers[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


def heads_of(records: Sequence[R]) -> Sequence[Any]:
    """What `Records.heads` says, of any sequence."""
    return records.heads if isinstance(records, Records) else records
