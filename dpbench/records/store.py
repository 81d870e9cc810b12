"""Records on disk: one JSON file for each unit of a run, written whole or not at all.

DIR/FOLDER/UNIT.json                   what was measured; the folder is the protocol's
DIR/pictures/UNIT.png                  victims and reconstructions side by side
DIR/reconstructions/UNIT.safetensors   the same, as tensors

The JSON files of a run may also lie in one file, NAME.jsonl.xz: see `dpbench.records.archive`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from dpbench.errors import DpbenchError
from dpbench.records.archive import head_of, is_archive, texts_of, write_archive
from dpbench.records.collected import Head, Records, SharedParts, heads_of
from dpbench.records.record import Envelope, Record
from dpbench.records.record_files import Unstorable, content_of, parse_sealed, read_sealed, write_json

R = TypeVar("R", bound=Envelope)
H = TypeVar("H", Record, Head)

MENDED = "fetch the file again, or write it from the run directory"


@dataclass(frozen=True)
class Stored:
    """A record that was not opened yet.

    Attributes:
        place: where it stands, for messages.
        name: of its file, which should be its id; None in a file of many.
        content: its file, or its JSON.
    """

    place: str
    name: str | None
    content: Path | str

    @property
    def text(self) -> str:
        """Its JSON."""
        return self.content.read_text(encoding="utf-8") if isinstance(self.content, Path) else self.content


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

    def holds(self, run: Path) -> bool:
        """Whether `dpbench run` wrote it for a suite of this protocol, or it is a file of such records.

        Raises:
            DpbenchError: a file that is named like one of records, and is none.
        """
        return head_of(run).folder == self.folder if is_archive(run) else (run / self.folder).is_dir()

    def files(self, run_dir: Path) -> list[Path]:
        """The records of a run directory, by name.

        Raises:
            DpbenchError: not a run directory of this protocol.
        """
        if not (run_dir / self.folder).is_dir():
            raise DpbenchError(
                f"{run_dir} is not a run directory: it has no folder {self.folder!r}; expected what "
                "`dpbench run --output DIR` wrote"
            )
        return sorted(path for path in (run_dir / self.folder).glob("*.json") if not path.name.startswith("."))

    def stored(self, run: Path) -> Iterator[Stored]:
        """The records of a run directory or of a file of records, as they are stored.

        Raises:
            DpbenchError: neither of the two, of another protocol, or a file that cannot be read.
        """
        if not is_archive(run):
            yield from (Stored(str(path), path.stem, path) for path in self.files(run))
            return
        if not self.holds(run):
            raise DpbenchError(f"{run} holds records of another protocol: none of the folder {self.folder!r}")
        for number, text in enumerate(texts_of(run), start=1):
            yield Stored(f"{run}, record {number}", None, text)

    def opened(self, one: Stored) -> tuple[R, bool]:
        """One of them, and whether it has a digest: those of before had none.

        Raises:
            DpbenchError: as `dpbench.records.record_files.parse_sealed`.
        """
        if isinstance(one.content, Path):
            return self.read_sealed(one.content)
        return parse_sealed(
            one.content, self.kind, place=one.place, again=MENDED, schema=self.kind.SCHEMA, wrong=self.kind.impossible
        )

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

    def all(self, run: Path) -> Iterator[R]:
        """Every record of a run directory, by name, or of a file of records.

        Raises:
            DpbenchError: neither of the two of this protocol, or a record in it cannot be read.
        """
        shared = SharedParts()
        return (shared.of(self.opened(one)[0]) for one in self.stored(run))

    def counted(self, runs: Iterable[Path], choose: Callable[[Iterable[Any]], Iterable[Any]]) -> Sequence[R]:
        """The records of some runs that count: in memory while they are few, see `dpbench.records.collected.HELD`.

        Args:
            runs: run directories and files of records.
            choose: of several records of one unit, or of their heads, the one that counts: `Protocol.newest`.

        Raises:
            DpbenchError: as `all`; later too, where a record is read again.
        """
        records: Records[R, str | Stored] = Records(self._again)
        for run in runs:
            for one in self.stored(run):
                records.add(self.opened(one)[0], one if isinstance(one.content, str) else one.place)
        return records.chosen(choose)

    def _again(self, place: str | Stored) -> R:
        return self.read(Path(place)) if isinstance(place, str) else self.opened(place)[0]

    def of_run(self, run_dir: Path) -> Records[R, str]:
        """Of units of a run by their ids: none yet, and where they are read again."""
        return Records(lambda unit_id: self.read(self.path(run_dir, unit_id)))

    def write_archive(self, runs: Iterable[Path], path: Path, chosen: Callable[[Iterable[R]], Iterable[R]]) -> int:
        """Write the records of some runs as one file, see `dpbench.records.archive`; returns how many.

        Args:
            runs: run directories and files of records.
            path: ends in .jsonl.xz.
            chosen: of several records of one unit the one that counts.

        Raises:
            DpbenchError: a record cannot be read, or the file cannot be written.
        """
        read = [(self.opened(one)[0], one.text) for run in runs for one in self.stored(run)]
        kept = {id(record) for record in chosen(record for record, _ in read)}
        texts = [text for record, text in sorted(read, key=lambda pair: pair[0].id) if id(record) in kept]
        write_archive(path, self.folder, texts)
        return len(texts)

    def restore(self, run_dir: Path, records: Sequence[R]) -> int:
        """Write again those of these whose files are gone, as when the run directory was emptied; returns how many.

        Raises:
            DpbenchError: they are too many to be held, and one is gone.
        """
        lost = [n for n, head in enumerate(heads_of(records)) if not self.path(run_dir, head.id).is_file()]
        for number in lost:
            self.write(run_dir, records[number])
        return len(lost)


CELLS = Store("records", Record)
"""Where records of cells lie: in `records/` of a run directory."""


def newest(records: Iterable[H]) -> list[H]:
    """Of several records of one cell, but for the code of its plug-ins and what is measured beside, the newest."""
    found: dict[str, H] = {}
    for record in records:
        cell = record.unit_measured
        cell = cell.model_copy(
            update={
                "attack": cell.attack.model_copy(update={"source": ""}),
                "defense": cell.defense.model_copy(update={"source": ""}),
                "metrics": (),
            }
        )
        if cell.id not in found or record.created >= found[cell.id].created:
            found[cell.id] = record
    return list(found.values())
