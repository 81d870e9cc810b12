"""One directory per run: a JSON record and a picture per cell, each written whole or not at all.

DIR/records/CELL.json                  what was measured
DIR/pictures/CELL.png                  victims and reconstructions side by side
DIR/reconstructions/CELL.safetensors   the same, as tensors
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dpbench.errors import DpbenchError
from dpbench.ranges import impossible, sound_figures
from dpbench.record_files import NewerSchema as NewerSchema
from dpbench.record_files import Unstorable, content_of, read_json, restore, write_json
from dpbench.record_files import readable as readable
from dpbench.specs import CellSpec
from dpbench.writing import write_atomically as write_atomically

SCHEMA_VERSION = 3
"""3: sealed with a digest, names its plug-ins in words. Older records are read."""

METRICS = ("mse", "psnr_db", "ssim", "lpips")


class Words(BaseModel):
    """A cell or unit in words, as its plug-ins were when it was measured: to read a record no plug-in is imported."""

    model_config = ConfigDict(extra="forbid")

    label: str = Field(description="`resnet10t layer1 | gaussian std=0.5 | decoder | weights | seed 0`")
    full: str = Field(description="the same with the parameters of the attack")
    defense: str = Field(description="`gaussian std=0.5`: parameters that are not at their defaults, and the first")
    attack: str = Field(description="its name")


class Recognition(BaseModel):
    """Whether a reconstruction gives the victim away, apart from how it looks."""

    model_config = ConfigDict(extra="forbid")

    reid_rank: list[int] = Field(description="per victim: how many other test images are at least as near (0: none)")
    gallery: int = Field(description="test images that were compared; chance of rank 0 is one in so many")
    label_read: list[bool] = Field(description="per victim: does the judge read its true label?")
    identity_rank: list[int] | None = Field(
        None,
        description="per victim: how many other classes have a private image at least as near as its own class has "
        "(0: none); where the attacker has seen none of these classes",
    )
    identities: int | None = Field(None, description="classes that were compared; chance of rank 0 is one in so many")
    judge: str = Field(description="the independently trained classifier")
    judge_accuracy: float = Field(description="its top-1 on the true test images")


class Guarantees(BaseModel):
    """What holds against every attack of a stated kind; only for releases with additive noise."""

    model_config = ConfigDict(extra="forbid")

    mse_bound: list[float] = Field(
        description="per victim: no unbiased attacker has a smaller expected MSE (1 / dFIL squared); binds no other"
    )
    epsilon: float | None = Field(None, description="differential privacy of one image, for clipped Gaussian releases")
    delta: float | None = Field(None, description="at which epsilon holds")


class Utility(BaseModel):
    """Task accuracy of the protected model, from the very release that the attacker receives."""

    model_config = ConfigDict(extra="forbid")

    correct: list[bool] = Field(description="top-1 per test image; the first ones are the victims")
    top5: list[bool] | None = Field(None, description="likewise among the first five, where there are many classes")

    @property
    def accuracy(self) -> float:
        """Top-1 in [0, 1]."""
        return sum(self.correct) / len(self.correct)


class Memory(BaseModel):
    """How the memory of a cell was bounded, and what it came to."""

    model_config = ConfigDict(extra="forbid")

    batch_size: int = Field(description="the most images at once in a network, in the stage that had the fewest")
    halved: int = Field(0, description="how often memory ran out, and a stage began again with half the batch")
    peak_bytes: int | None = Field(
        None, description="the most that was in use: of the device on CUDA, else resident memory of the process"
    )


class Record(BaseModel):
    """The stored result of one cell. Figures are per image; boards average them."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    id: str
    suite: str
    headline: str = Field("leakage", description="the figure that the suite is about, as a column of a board")
    cell: CellSpec
    words: Words | None = Field(None, description="none in records of before; see `dpbench.words.words_of`")
    status: Literal["ok", "failed"]
    apart: list[Literal["defense", "attack"]] = Field(
        default_factory=list, description="plug-ins that ran in processes of their own: see `dpbench.border`"
    )
    error: str | None = None
    floor: bool = Field(False, description="the attack reconstructs nothing: it sets the zero of the scale")
    utility: Utility | None = None
    fidelity: dict[str, list[float]] = Field(
        default_factory=dict, description="metric -> one figure per victim: mse, psnr_db, ssim, lpips, ms_ssim"
    )
    missing_metrics: dict[str, str] = Field(default_factory=dict, description="metric or bound -> why it is not there")
    victims: list[str] = Field(default_factory=list, description="content hash of each victim, in order")
    backbone_weights: str = Field("", description="where the weights came from, and their hash")
    released: dict[str, Any] = Field(
        default_factory=dict,
        description="shape (per image), dtype; shapes of the tensors packed in one; client_share: see `dpbench.depth`",
    )
    release_bits: int | None = Field(None, description="bits of one release of one image, at a fixed length per value")
    recognition: Recognition | None = None
    guarantees: Guarantees | None = Field(None, description="none for releases without additive noise")
    trained_on: list[str] = Field(default_factory=list, description="metrics that the defense optimised against")
    converged: bool | None = Field(None, description="what the attack says of itself; None where it says nothing")
    notes: dict[str, Any] = Field(default_factory=dict, description="what the attack said of itself")
    seconds: dict[str, float] = Field(default_factory=dict, description="wall time per stage")
    memory: Memory | None = Field(None, description="what bounded it; none in records of before")
    peak_memory_mb: dict[str, float] = Field(default_factory=dict, description="peak memory per stage, MiB")
    kept: dict[str, str] = Field(
        default_factory=dict, description="file of the run that shows this cell -> SHA-256 of its content"
    )
    environment: dict[str, Any] = Field(default_factory=dict)
    created: str = ""


APART: tuple[Literal["defense", "attack"], ...] = ("defense", "attack")
"""The plug-ins of a cell, as `Record.apart` names them."""


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
        DpbenchError: as `dpbench.record_files.read_json`.
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
