"""The cells a board is made of: their records, under the names they have on it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self, TypeVar

import numpy as np

from dpbench.contract.metric import MetricFacts
from dpbench.contract.threat import AUXILIARY_DATA, BUDGETS, THREAT_MODELS, AuxiliaryData, ServerRole, ThreatModel
from dpbench.errors import DpbenchError
from dpbench.metrics.intervals import Floats
from dpbench.metrics.recognition import Recognition
from dpbench.metrics.table import IN_RECORDS, LOWER_IS_CLOSER
from dpbench.records.collected import Records, SharedParts, heads_of
from dpbench.records.record import Record
from dpbench.suite.cell import CellSpec
from dpbench.suite.ensembles import is_floor
from dpbench.suite.names import RowName, name_rows, plugin_names

T = TypeVar("T")


SERVER_ROLES: tuple[ServerRole, ...] = ("trusted", "attacker")
"""Weakest attacker first."""


class Tier(NamedTuple):
    """What an attacker is granted: threat model, auxiliary images, releases of each victim, and the server's half."""

    threat_model: ThreatModel
    auxiliary: AuxiliaryData
    releases: int
    server: ServerRole = "attacker"

    @classmethod
    def together(cls, tiers: Iterable[Tier]) -> Self:
        """The tier that grants all that any of these grants."""
        most = [max(grants) for grants in zip(*(tier.strength for tier in tiers), strict=True)]
        return cls(THREAT_MODELS[most[0]], AUXILIARY_DATA[most[1]], most[2], SERVER_ROLES[most[3]])

    @property
    def strength(self) -> tuple[int, int, int, int]:
        """Its grants as numbers, larger for more: tuples of them order tiers, by the threat model first."""
        return (
            THREAT_MODELS.index(self.threat_model),
            AUXILIARY_DATA.index(self.auxiliary),
            self.releases,
            SERVER_ROLES.index(self.server),
        )

    @property
    def named_server(self) -> str:
        """The column `server` of its rows: `trusted`, or empty where the attacker holds the server's half."""
        return "trusted" if self.server == "trusted" else ""

    def includes(self, other: Tier) -> bool:
        """Whether this tier grants at least as much as the other, in each of its parts."""
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
        return is_floor(self.record.cell.attack.name)

    @property
    def tier(self) -> Tier:
        """What its attacker was granted."""
        cell = self.record.cell
        return Tier(cell.threat_model, cell.auxiliary, cell.releases, cell.server)

    @property
    def budget_rank(self) -> int:
        """Place of its budget among `BUDGETS`: 0 is the smallest."""
        return BUDGETS.index(self.record.cell.budget)

    @property
    def test_set(self) -> str:
        """Equal for cells whose test images are the same."""
        cell = self.record.cell
        return f"{cell.data_fingerprint} {cell.dataset.model_dump_json(exclude={'name'})}"


def cells_of(records: Sequence[Record], *, as_recorded: bool = False) -> Iterator[Cell]:
    """One cell for each id, in the order of the ids.

    Args:
        records: in any order; of one id a finished record counts before a failed one, then the latest. The same
            plug-in file under several spellings of its path makes no second cell.
        as_recorded: keep the victims in their order; else they are sorted, as boards need it.
    """
    return (_cell(name, attack, records[number], as_recorded) for name, attack, number in _named(records))


def cells_by_place(records: Sequence[Record]) -> Iterator[list[Cell]]:
    """The same cells, those of one dataset, backbone and split point at a time: figures of one place are held.

    Places come as their first cells do.
    """
    for named in grouped(_named(records), lambda one: one[0].group[:3]).values():
        shared = SharedParts() if isinstance(records, Records) else None  # what is held is shared already
        read = ((name, attack, records[number]) for name, attack, number in named)
        yield [_cell(name, attack, shared.of(one) if shared else one, False) for name, attack, one in read]


def _named(records: Sequence[Record]) -> list[tuple[RowName, str, int]]:
    """The numbers of the records that count, with their names and those of their attacks, in the order of their ids."""
    heads = heads_of(records)
    ordered = _from_weakest(records)
    cells = [head.unit_measured for head in heads]
    plugins = plugin_names(spec for number in ordered for spec in (cells[number].defense, cells[number].attack))

    def identity(cell: CellSpec) -> str:
        renamed = {
            role: spec.model_copy(update={"name": plugins[spec.name, spec.source]})
            for role, spec in (("defense", cell.defense), ("attack", cell.attack))
        }
        return cell.model_copy(update={**renamed, "metrics": ()}).id

    unique = {identity(cells[number]): number for number in ordered}
    kept = sorted(unique.values(), key=lambda number: heads[number].id)
    names = name_rows([cells[number] for number in kept])
    attacks = (plugins[cells[number].attack.name, cells[number].attack.source] for number in kept)
    return list(zip(names, attacks, kept, strict=True))


def _from_weakest(records: Sequence[Record]) -> list[int]:
    """Numbers of records: failed before finished, early before late; else by all that they hold."""
    heads = heads_of(records)

    def rank(number: int) -> tuple[bool, str, str]:
        return heads[number].status == "ok", heads[number].created, heads[number].id

    ordered: list[int] = []
    for several in grouped(sorted(range(len(heads)), key=rank), rank).values():
        ordered += several if len(several) == 1 else sorted(several, key=lambda n: records[n].model_dump_json())
    return ordered


def _cell(name: RowName, attack: str, record: Record, as_recorded: bool) -> Cell:
    figures = figures_of(record) if record.status == "ok" else None
    record = record.model_copy(update={"fidelity": {}, "notes": {}})  # what no row is made of is not held
    return Cell(name, attack, record, figures if figures is None or as_recorded else in_order(figures))


def grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> dict[Hashable, list[T]]:
    """Items by key, in the order in which keys and items come."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


PSNR_CAP_DB = 80.0
"""The largest PSNR per image that counts: that of identical images is infinite, and no mean would survive it."""


PER_IMAGE = (*IN_RECORDS, "reid_rank", "identity_rank", "label_read")


LOWEST_WINS = (*LOWER_IS_CLOSER, "reid_rank", "identity_rank")
"""Figures whose smallest value over several attacks is the worst case."""


@dataclass(frozen=True)
class Figures:
    """Per-image figures: each array of `values` is aligned with `victims` (content hashes).

    `metrics` says how those are read that are not dpbench's own.
    """

    victims: tuple[str, ...]
    values: dict[str, Floats]
    metrics: tuple[MetricFacts, ...] = ()

    def restrict_to(self, victims: Sequence[str]) -> Figures:
        """The same figures for some of the victims, in the order given."""
        if tuple(victims) == self.victims:
            return self
        place = {victim: index for index, victim in enumerate(self.victims)}
        chosen = [place[victim] for victim in victims]
        values = {metric: array[chosen] for metric, array in self.values.items()}
        return Figures(tuple(victims), values, self.metrics)


class Measured(Protocol):
    """The part of a record that figures are made of; `dpbench.records.record.Record` has it."""

    @property
    def id(self) -> str:
        """The id of what was measured, for messages."""

    @property
    def fidelity(self) -> Mapping[str, Sequence[float]]:
        """Metric -> one figure per victim."""

    @property
    def metrics(self) -> Sequence[MetricFacts]:
        """How figures are read that are not dpbench's own."""

    @property
    def victims(self) -> Sequence[str]:
        """Content hash of each victim."""

    @property
    def recognition(self) -> Recognition | None:
        """Whether a reconstruction gives its victim away."""


def figures_of(record: Measured) -> Figures:
    """The figures of a finished cell; a metric that is not finite everywhere counts as not measured."""
    given: dict[str, Sequence[float]] = dict(record.fidelity)
    if record.recognition is not None:
        given |= {"reid_rank": record.recognition.reid_rank, "label_read": record.recognition.label_read}
        given |= {"identity_rank": record.recognition.identity_rank or []}
    values = {}
    for metric in (*PER_IMAGE, *(facts.name for facts in record.metrics)):
        array = np.asarray(given.get(metric, []), dtype=np.float64)
        if len(array) not in (0, len(record.victims)):
            raise DpbenchError(
                f"record {record.id} has {len(array)} figures of {metric} for {len(record.victims)} victims; "
                "delete it and run the suite again, which redoes that cell alone"
            )
        if metric == "psnr_db":
            array = np.minimum(array, PSNR_CAP_DB)
        if len(array) and np.isfinite(array).all():
            values[metric] = array
    return Figures(_distinct(record.victims), values, tuple(record.metrics))


def bound_of(record: Record) -> Figures | None:
    """The error bound per victim, as figures; None where there is none, or where it is infinite."""
    bound = np.asarray(record.guarantees.mse_bound if record.guarantees is not None else [], dtype=np.float64)
    if not len(bound) or len(bound) != len(record.victims) or not np.isfinite(bound).all():
        return None
    return Figures(_distinct(record.victims), {"mse_bound": bound})


def link_of(record: Record) -> Figures | None:
    """The rank of each victim among candidates, as figures; None where releases were not compared."""
    if record.link is None or len(record.link.rank) != len(record.victims):
        return None
    ranks = np.asarray(record.link.rank, dtype=np.float64)
    return Figures(_distinct(record.victims), {"link_rank": ranks}) if len(ranks) else None


def _distinct(victims: Sequence[str]) -> tuple[str, ...]:
    """Victims that are the same image twice stay two: `hash`, `hash 2`."""
    seen: dict[str, int] = {}
    names = []
    for victim in victims:
        seen[victim] = seen.get(victim, 0) + 1
        names.append(victim if seen[victim] == 1 else f"{victim} {seen[victim]}")
    return tuple(names)


def in_order(figures: Figures) -> Figures:
    """The same figures with the victims sorted, so that figures that are resampled together are aligned."""
    return figures.restrict_to(sorted(figures.victims))


def worst_case(cells: Sequence[Figures]) -> Figures | None:
    """Per image and metric the best reconstruction, over the victims and metrics that all cells have."""
    if not cells:
        return None
    shared = common(cells)
    aligned = [cell.restrict_to(shared) for cell in cells]
    metrics = tuple(facts for facts in cells[0].metrics if all(facts in cell.metrics for cell in cells))
    lowest = (*LOWEST_WINS, *(facts.name for facts in metrics if facts.closer == "lower"))
    best = {}
    for metric in (*PER_IMAGE, *(facts.name for facts in metrics)):
        if all(metric in cell.values for cell in aligned):
            pick = np.minimum if metric in lowest else np.maximum
            best[metric] = pick.reduce([cell.values[metric] for cell in aligned])
    return Figures(tuple(shared), best, metrics)


def common(cells: Sequence[Figures]) -> tuple[str, ...]:
    """The victims that all of these have figures for, in the order of the first."""
    others = [set(cell.victims) for cell in cells[1:]]
    return tuple(victim for victim in cells[0].victims if all(victim in other for other in others))
