"""Records on disk: one JSON file for each unit of a run, written whole or not at all.

DIR/FOLDER/UNIT.json                   what was measured; the folder is the protocol's
DIR/pictures/UNIT.png                  victims and reconstructions side by side
DIR/reconstructions/UNIT.safetensors   the same, as tensors
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from dpbench.errors import DpbenchError
from dpbench.records.record import Envelope, Record
from dpbench.records.record_files import Unstorable, content_of, read_sealed, write_json

R = TypeVar("R", bound=Envelope)


def picture_path(run_dir: Path, unit_id: str) -> Path:
    """Where the picture of an attack lies."""
    return run_dir / "pictures" / f"{unit_id}.png"


class Store(Generic[R]):
    """The records of one protocol in run directories.

    Args:
        folder: of a run directory in which they lie.
        kind: what they are.
    """

    def __init__(self, folder: str, kind: type[R]) -> None:
        self.folder = folder
        self.kind = kind

    def path(self, run_dir: Path, unit_id: str) -> Path:
        """Where the record of a unit lies."""
        return run_dir / self.folder / f"{unit_id}.json"

    def holds(self, run_dir: Path) -> bool:
        """Whether `dpbench run` wrote it for a suite of this protocol."""
        return (run_dir / self.folder).is_dir()

    def files(self, run_dir: Path) -> list[Path]:
        """The records of a run, by name.

        Raises:
            DpbenchError: not a run directory of this protocol.
        """
        if not self.holds(run_dir):
            raise DpbenchError(
                f"{run_dir} is not a run directory: it has no folder {self.folder!r}; expected what "
                "`dpbench run --output DIR` wrote"
            )
        return sorted(path for path in (run_dir / self.folder).glob("*.json") if not path.name.startswith("."))

    def storable(self, record: R) -> R:
        """The record as it can be read again: `Envelope.sound`, or that of a unit that failed."""
        record = record.sound()
        try:
            content_of(record, self.kind.impossible)
        except Unstorable as error:
            return record.without_figures(f"what was measured cannot be stored: {error}")
        return record

    def write(self, run_dir: Path, record: R) -> R:
        """Store a record, atomically; returns what was stored, see `storable`."""
        stored = self.storable(record)
        write_json(self.path(run_dir, record.id), stored, self.kind.impossible)
        return stored

    def read(self, path: Path) -> R:
        """One record.

        Raises:
            DpbenchError: as `dpbench.records.record_files.read_sealed`.
        """
        return self.read_sealed(path)[0]

    def read_sealed(self, path: Path) -> tuple[R, bool]:
        """As `read`, and whether it has a digest: those of before had none."""
        return read_sealed(path, self.kind, schema=self.kind.SCHEMA, wrong=self.kind.impossible)

    def all(self, run_dir: Path) -> Iterator[R]:
        """Every record of a run, by name.

        Raises:
            DpbenchError: not a run directory of this protocol, or a record in it cannot be read.
        """
        return (self.read(path) for path in self.files(run_dir))

    def restore(self, run_dir: Path, records: Iterable[R]) -> int:
        """Write again those of these whose files are gone, as when the run directory was emptied; returns how many."""
        lost = [record for record in records if not self.path(run_dir, record.id).is_file()]
        for record in lost:
            self.write(run_dir, record)
        return len(lost)


CELLS = Store("records", Record)
"""Where records of cells lie: in `records/` of a run directory."""


def newest(records: Iterable[Record]) -> list[Record]:
    """Of several records of one cell, but for the code of its plug-ins and what is measured beside, the newest."""
    found: dict[str, Record] = {}
    for record in records:
        cell = record.cell.model_copy(
            update={
                "attack": record.cell.attack.model_copy(update={"source": ""}),
                "defense": record.cell.defense.model_copy(update={"source": ""}),
                "metrics": (),
            }
        )
        if cell.id not in found or record.created >= found[cell.id].created:
            found[cell.id] = record
    return list(found.values())
