"""One directory per run: a JSON record and a picture per cell, each written whole or not at all.

DIR/records/CELL.json     what was measured
DIR/pictures/CELL.png     victims and reconstructions side by side
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from dpbench.errors import DpbenchError
from dpbench.specs import CellSpec

SCHEMA_VERSION = 2

METRICS = ("mse", "psnr_db", "ssim", "lpips")

R = TypeVar("R", bound=BaseModel)


class NewerSchema(DpbenchError):
    """A record written by a newer dpbench: not to be overwritten."""


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
    status: Literal["ok", "failed"]
    error: str | None = None
    floor: bool = Field(False, description="the attack reconstructs nothing: it sets the zero of the scale")
    utility: Utility | None = None
    fidelity: dict[str, list[float]] = Field(
        default_factory=dict, description="metric -> one figure per victim: mse, psnr_db, ssim, lpips, ms_ssim"
    )
    missing_metrics: dict[str, str] = Field(default_factory=dict, description="metric -> why it is not there")
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
    environment: dict[str, Any] = Field(default_factory=dict)
    created: str = ""


def record_path(run_dir: Path, cell_id: str) -> Path:
    """Where the record of a cell lies."""
    return run_dir / "records" / f"{cell_id}.json"


def picture_path(run_dir: Path, cell_id: str) -> Path:
    """Where the picture of a cell lies."""
    return run_dir / "pictures" / f"{cell_id}.png"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place: whole, or not at all.

    Raises:
        DpbenchError: the disk is full or not writable. Nothing that was there is lost.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = "the disk is full" if full else f"it cannot be written ({error.strerror or error})"
        advice = "free some space" if full else "choose a writable folder"
        raise DpbenchError(
            f"{path.parent}: {reason}; {advice} and run the same command again: finished cells are kept"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, record: BaseModel) -> None:
    """Store a record of any kind, atomically."""
    text = record.model_dump_json(indent=1) + "\n"
    # one line per list of figures; inside JSON strings there are no line breaks to lose
    text = re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\s*\n\s*", " ", found.group()), text)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path, kind: type[R], *, schema: int) -> R:
    """A record of any kind.

    Args:
        path: of the file.
        kind: what is expected in it.
        schema: the newest that is understood.

    Raises:
        DpbenchError: the file is cut short, is no such record, or was written by a newer dpbench.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DpbenchError(f"record {path} cannot be read: {error}; delete it and run the suite again") from error
    try:
        version = _Version.model_validate_json(text).schema_version
        if version > schema:
            raise NewerSchema(f"record {path} has schema {version}, this dpbench reads up to {schema}; upgrade dpbench")
        return kind.model_validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DpbenchError(
            f"record {path} is cut short or damaged ({where}: {first['msg']}); "
            "delete it and run the suite again, which redoes that part alone"
        ) from error


class _Version(BaseModel):
    schema_version: int


def readable(paths: Iterable[Path], read: Callable[[Path], R]) -> Iterator[R]:
    """The records that are there and whole; what is cut short is left to be measured again.

    Raises:
        NewerSchema: one was written by a newer dpbench.
    """
    for path in paths:
        if not path.is_file():
            continue
        try:
            yield read(path)
        except NewerSchema:
            raise
        except DpbenchError:
            continue


def write_record(run_dir: Path, record: Record) -> None:
    """Store the record of a cell, atomically."""
    write_json(record_path(run_dir, record.id), record)


def read_record(path: Path) -> Record:
    """The record of a cell.

    Raises:
        DpbenchError: as `read_json`.
    """
    return read_json(path, Record, schema=SCHEMA_VERSION)


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
    newest: dict[str, Record] = {}
    for record in (record for run_dir in run_dirs for record in iter_records(run_dir)):
        cell = record.cell.model_copy(
            update={
                "attack": record.cell.attack.model_copy(update={"source": ""}),
                "defense": record.cell.defense.model_copy(update={"source": ""}),
            }
        )
        if cell.id not in newest or record.created >= newest[cell.id].created:
            newest[cell.id] = record
    return list(newest.values())
