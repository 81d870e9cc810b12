"""One directory per run: a JSON record and a picture per cell, each written whole or not at all.

DIR/records/CELL.json                  what was measured
DIR/pictures/CELL.png                  victims and reconstructions side by side
DIR/reconstructions/CELL.safetensors   the same, as tensors
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from dpbench.errors import DpbenchError
from dpbench.records.ranges import impossible, sound_figures
from dpbench.records.record import SCHEMA_VERSION, Record
from dpbench.records.record_files import Unstorable, content_of, read_json, restore, write_json


def record_path(run_dir: Path, cell_id: str) -> Path:
    """Where the record of a cell lies."""
    return run_dir / "records" / f"{cell_id}.json"


def picture_path(run_dir: Path, cell_id: str) -> Path:
    """Where the picture of a cell lies."""
    return run_dir / "pictures" / f"{cell_id}.png"


def write_record(run_dir: Path, record: Record) -> Record:
    """Store the record of a cell, atomically; returns what was stored, see `storable`."""
    stored = storable(record)
    write_json(record_path(run_dir, record.id), stored, impossible)
    return stored


def storable(record: Record) -> Record:
    """The record as it can be read again.

    A metric or a bound that came out as no number, or as one that cannot be, counts as not measured, which
    `missing_metrics` says. Where something else cannot be stored, the record is that of a failed cell.
    """
    fidelity, missing = sound_figures(record.fidelity, record.missing_metrics)
    record = record.model_copy(update={"fidelity": fidelity, "missing_metrics": missing})
    if record.guarantees is not None:
        bound, count = record.guarantees.mse_bound, len(record.victims)
        sound = [value for value in bound if 0 <= value < float("inf")]
        if len(sound) < len(bound):
            reason = f"is no number for {len(bound) - len(sound)} of {count} victims: there is no bound"
            missing = {**missing, "mse_bound": reason}
            record = record.model_copy(update={"guarantees": None, "missing_metrics": missing})
    if record.guarantees is not None and record.guarantees.epsilon is not None:
        if not 0 <= record.guarantees.epsilon < float("inf"):
            missing = {**missing, "epsilon": f"came out as {record.guarantees.epsilon}: there is none"}
            without = record.guarantees.model_copy(update={"epsilon": None, "delta": None})
            record = record.model_copy(update={"guarantees": without, "missing_metrics": missing})
    try:
        content_of(record, impossible)
    except Unstorable as error:
        return Record(
            id=record.id,
            suite=record.suite,
            headline=record.headline,
            cell=record.cell,
            words=record.words,
            status="failed",
            error=f"what was measured cannot be stored: {error}",
            environment=record.environment,
            created=record.created,
        )
    return record


def restore_records(run_dir: Path, records: Iterable[Record]) -> int:
    """Write again what was removed of these in the meantime; returns how many."""
    return len(restore(records, lambda r: record_path(run_dir, r.id), lambda r: write_record(run_dir, r)))


def read_record(path: Path) -> Record:
    """The record of a cell.

    Raises:
        DpbenchError: as `dpbench.records.record_files.read_json`.
    """
    return read_json(path, Record, schema=SCHEMA_VERSION, wrong=impossible)


def iter_records(run_dir: Path) -> Iterator[Record]:
    """Every record of a run, by name.

    Raises:
        DpbenchError: not a run directory, or a record in it cannot be read.
    """
    folder = run_dir / "records"
    if not folder.is_dir():
        raise DpbenchError(
            f"{run_dir} is not a run directory: it has no folder 'records'; expected what "
            "`dpbench run --output DIR` wrote"
        )
    for path in sorted(folder.glob("*.json")):
        if not path.name.startswith("."):
            yield read_record(path)


def newest_records(run_dirs: Iterable[Path]) -> list[Record]:
    """The records of several runs; where one cell was measured again by newer code, only the newest.

    Raises:
        DpbenchError: as `iter_records`.
    """
    return newest(record for run_dir in run_dirs for record in iter_records(run_dir))


def newest(records: Iterable[Record]) -> list[Record]:
    """Of several records of one cell, but for the code of its plug-ins, the newest."""
    found: dict[str, Record] = {}
    for record in records:
        cell = record.cell.model_copy(
            update={
                "attack": record.cell.attack.model_copy(update={"source": ""}),
                "defense": record.cell.defense.model_copy(update={"source": ""}),
            }
        )
        if cell.id not in found or record.created >= found[cell.id].created:
            found[cell.id] = record
    return list(found.values())
