"""What `dpbench show` lists: the attacks of a run, of either protocol, that left a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dpbench.runner import names_of
from dpbench.sharing.records import SharingRecord, is_sharing_run
from dpbench.sharing.records import iter_records as iter_sharing
from dpbench.sharing.units import Attacked, OnShared, setting_text
from dpbench.store import Record, iter_records, picture_path


@dataclass(frozen=True)
class Shown:
    """An attack with a picture.

    Attributes:
        name: of its record and picture.
        patterns: what a pattern may occur in; the first is its label.
        defense: heads its row in a comparison.
        note: which attack, and its mean SSIM.
    """

    name: str
    patterns: tuple[str, ...]
    defense: str
    note: str


def shown(directory: Path) -> list[Shown]:
    """The attacks of a run whose pictures are there, by name.

    Raises:
        DpbenchError: not a run directory, or a record in it cannot be read.
    """
    if is_sharing_run(directory):
        found = [_of_shared(record) for record in iter_sharing(directory) if record.fidelity]
    else:
        found = [_of_cell(record) for record in iter_records(directory) if record.fidelity]
    return [one for one in found if picture_path(directory, one.name).is_file()]


def _of_cell(record: Record) -> Shown:
    names = names_of(record.cell)
    backbone, defense, attack, threat_model, _ = names[0].split(" | ")
    accuracy = "" if record.utility is None else f", top-1 {record.utility.accuracy:.0%}"
    note = f"{attack}, {threat_model}: {_ssim(record.fidelity['ssim'])}{accuracy}"
    return Shown(record.id, names, f"{backbone.partition(' ')[2]}, {defense}", note)


def _of_shared(record: SharingRecord) -> Shown:
    unit = record.unit
    assert isinstance(unit, OnShared)
    knows = unit.knowledge if isinstance(unit, Attacked) else f"prepared on fit {unit.words()[-1]}"
    note = f"{unit.attack.name}, {knows}: {_ssim(record.fidelity['ssim'])}"
    return Shown(record.id, (unit.label, record.id), setting_text(unit.defense), note)


def _ssim(values: Sequence[float]) -> str:
    return f"SSIM {sum(values) / len(values):.2f}"
