"""What records of cells say that cannot all be so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dpbench.board import cells
from dpbench.contract.plugin import Plugin
from dpbench.contract.spec import PLUS
from dpbench.machine.environment import same_machine
from dpbench.records.record import Record
from dpbench.suite.words import built_in


def contradictions(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """What in each record contradicts itself, and what of two records of one defense setting contradicts the other.

    Yields:
        The id of a record, and a phrase.
    """
    for record in records:
        yield from ((record.id, message) for message in _within(record))
    yield from _siblings(records)


def _within(record: Record) -> Iterator[str]:
    for sort, name in (("defense", record.cell.defense.name), ("attack", record.cell.attack.name)):
        own = set(name.split(PLUS)) <= built_in(Plugin).keys()
        if not own and sort not in record.apart:
            yield f"its {sort} {name!r} is none of dpbench's and ran where figures are made; run it again"
    if record.words is not None:
        split, defense = f"{record.cell.backbone.name} {record.cell.split_point}", record.words.defense
        if not record.words.label.startswith(f"{split} | {defense} | "):
            yield "its words do not belong to what it says it measured"
    if record.status == "ok" and record.utility is not None:
        tested = len(record.utility.correct)
        if tested != record.cell.dataset.test:
            yield f"has an answer for {tested} test images, the data set has {record.cell.dataset.test}"
        if record.recognition is not None and record.recognition.gallery != tested:
            yield f"compared {record.recognition.gallery} test images, the data set has {tested}"


def _siblings(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """Cells of one defense setting share one release: on one machine their accuracy and victims are equal."""

    def setting(record: Record) -> str:
        cell = record.cell
        same: list[Any] = [cell.data_fingerprint, cell.backbone_identity, cell.split_point, cell.releases, cell.seed]
        return f"{same} {cell.defense.model_dump_json()} {record.backbone_weights}"

    for group in cells.grouped([record for record in records if record.status == "ok"], setting).values():
        first = group[0]
        for other in group[1:]:
            shared = min(len(first.victims), len(other.victims))
            if first.victims[:shared] != other.victims[:shared]:
                yield other.id, f"attacks other victims than {first.id}, which has the same data"
            if first.utility != other.utility and same_machine(first.environment, other.environment):
                yield other.id, f"has another accuracy than {first.id}, which has the same defense and the same release"
            costs = {one.cost.model_dump_json() for one in (first, other) if one.cost is not None}
            if len(costs) > 1 and same_machine(first.environment, other.environment):
                yield other.id, f"has another cost than {first.id}, which has the same client"
