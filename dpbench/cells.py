"""The cells a board is made of: their records, under the names they have on it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from dpbench.figures import Figures, figures_of, in_order
from dpbench.row_names import RowName, name_rows
from dpbench.store import Record
from dpbench.types import AUXILIARY_DATA, BUDGETS, THREAT_MODELS, AuxiliaryData, ThreatModel

T = TypeVar("T")


class Tier(NamedTuple):
    """What an attacker is granted."""

    threat_model: ThreatModel
    auxiliary: AuxiliaryData
    releases: int

    @property
    def strength(self) -> tuple[int, int, int]:
        """Compares tiers that differ in several grants by the first."""
        return THREAT_MODELS.index(self.threat_model), AUXILIARY_DATA.index(self.auxiliary), self.releases

    def includes(self, other: Tier) -> bool:
        """Whether it grants at least as much of everything."""
        return all(own >= theirs for own, theirs in zip(self.strength, other.strength, strict=True))


@dataclass(frozen=True, eq=False)
class Cell:
    """A record, its name on the board, and its figures if it finished."""

    name: RowName
    record: Record
    figures: Figures | None

    @property
    def ok(self) -> bool:
        """Whether it finished."""
        return self.figures is not None

    @property
    def floor(self) -> bool:
        """Whether its attack only sets the zero of the scale."""
        return self.record.floor

    @property
    def attack(self) -> str:
        """The attack without its parameters."""
        return self.record.cell.attack.name

    @property
    def tier(self) -> Tier:
        """What its attacker was granted."""
        cell = self.record.cell
        return Tier(cell.threat_model, cell.auxiliary, cell.releases)

    @property
    def budget_rank(self) -> int:
        """0 for the smallest."""
        return BUDGETS.index(self.record.cell.budget)

    @property
    def test_set(self) -> str:
        """Equal for cells whose test images are the same."""
        cell = self.record.cell
        return f"{cell.data_fingerprint} {cell.dataset.model_dump_json(exclude={'name'})}"


def cells_of(records: Iterable[Record], *, as_recorded: bool = False) -> list[Cell]:
    """One cell for each id, in the order of the ids.

    Args:
        records: in any order; of one id a finished record counts before a failed one, then the latest.
        as_recorded: keep the victims in their order; else they are sorted, as boards need it.
    """
    unique: dict[str, Record] = {}
    for record in sorted(records, key=lambda r: (r.id, r.status == "ok", r.created, r.model_dump_json())):
        unique[record.id] = record
    kept = list(unique.values())
    cells = []
    for name, record in zip(name_rows([record.cell for record in kept]), kept, strict=True):
        figures = figures_of(record) if record.status == "ok" else None
        cells.append(Cell(name, record, figures if figures is None or as_recorded else in_order(figures)))
    return cells


def grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> dict[Hashable, list[T]]:
    """Items by key, in the order in which keys and items come."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
