"""The cells a board is made of: their records, under the names they have on it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeVar

from dpbench.ensembles import FLOORS
from dpbench.figures import Figures, figures_of, in_order
from dpbench.row_names import RowName, name_rows, plugin_names
from dpbench.specs import CellSpec
from dpbench.store import Record
from dpbench.types import AUXILIARY_DATA, BUDGETS, THREAT_MODELS, AuxiliaryData, ServerRole, ThreatModel

T = TypeVar("T")

SERVER_ROLES: tuple[ServerRole, ...] = ("trusted", "attacker")
"""Weakest attacker first."""


class Tier(NamedTuple):
    """What an attacker is granted."""

    threat_model: ThreatModel
    auxiliary: AuxiliaryData
    releases: int
    server: ServerRole = "attacker"

    @classmethod
    def together(cls, tiers: Iterable[Tier]) -> Self:
        """All that any of them grants."""
        most = [max(grants) for grants in zip(*(tier.strength for tier in tiers), strict=True)]
        return cls(THREAT_MODELS[most[0]], AUXILIARY_DATA[most[1]], most[2], SERVER_ROLES[most[3]])

    @property
    def strength(self) -> tuple[int, int, int, int]:
        """Compares tiers that differ in several grants by the first."""
        return (
            THREAT_MODELS.index(self.threat_model),
            AUXILIARY_DATA.index(self.auxiliary),
            self.releases,
            SERVER_ROLES.index(self.server),
        )

    @property
    def named_server(self) -> str:
        """As in `RowName.server`."""
        return "trusted" if self.server == "trusted" else ""

    def includes(self, other: Tier) -> bool:
        """Whether it grants at least as much of everything."""
        return all(own >= theirs for own, theirs in zip(self.strength, other.strength, strict=True))


@dataclass(frozen=True, eq=False)
class Cell:
    """A record, its name on the board, and its figures if it finished.

    Attributes:
        attack: the attack's name there, without its parameters.
    """

    name: RowName
    attack: str
    record: Record
    figures: Figures | None

    @property
    def ok(self) -> bool:
        """Whether it finished."""
        return self.figures is not None

    @property
    def floor(self) -> bool:
        """Whether its attack only sets the zero of the scale: the built-in floors do, whatever a plug-in says."""
        return self.record.cell.attack.name in FLOORS

    @property
    def tier(self) -> Tier:
        """What its attacker was granted."""
        cell = self.record.cell
        return Tier(cell.threat_model, cell.auxiliary, cell.releases, cell.server)

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
        records: in any order; of one id a finished record counts before a failed one, then the latest. The same
            plug-in file under several spellings of its path makes no second cell.
        as_recorded: keep the victims in their order; else they are sorted, as boards need it.
    """
    ordered = sorted(records, key=lambda r: (r.status == "ok", r.created, r.id, r.model_dump_json()))
    plugins = plugin_names(spec for record in ordered for spec in (record.cell.defense, record.cell.attack))

    def identity(cell: CellSpec) -> str:
        renamed = {
            role: spec.model_copy(update={"name": plugins[spec.name, spec.source]})
            for role, spec in (("defense", cell.defense), ("attack", cell.attack))
        }
        return cell.model_copy(update=renamed).id

    unique = {identity(record.cell): record for record in ordered}
    kept = sorted(unique.values(), key=lambda record: record.id)
    cells = []
    for name, record in zip(name_rows([record.cell for record in kept]), kept, strict=True):
        figures = figures_of(record) if record.status == "ok" else None
        attack = plugins[record.cell.attack.name, record.cell.attack.source]
        shown = figures if figures is None or as_recorded else in_order(figures)
        cells.append(Cell(name, attack, record, shown))
    return cells


def grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> dict[Hashable, list[T]]:
    """Items by key, in the order in which keys and items come."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
