"""A JSON record per unit of a sharing suite, each written whole or not at all: DIR/sharing/UNIT.json."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dpbench.errors import DpbenchError
from dpbench.metrics.recognition import Recognition
from dpbench.protocols.sharing.units import AnyUnit, OnShared, described_defense
from dpbench.records.ranges import number, of_attack, of_times, sound_figures
from dpbench.records.record_files import Unstorable, content_of, read_json, restore, write_json
from dpbench.suite.words import Words

SCHEMA_VERSION = 2
"""2: sealed with a digest, names its plug-ins in words. Older records are read."""


class Equivalence(BaseModel):
    """Whether defended features are, to the public server tail, what clean ones are; on the test images."""

    model_config = ConfigDict(extra="forbid")

    agreement: float = Field(description="share of images with the same class")
    kl: float = Field(description="mean KL(clean || defended) of the predicted classes, nats")
    accuracy: float = Field(description="top-1 of the public tail on the defended features")
    distortion: float = Field(description="mean squared change of the shared features, over their variance")


class Trained(BaseModel):
    """What a training came to. Accuracies are of the trained tail, on the test images."""

    model_config = ConfigDict(extra="forbid")

    correct: list[bool] = Field(description="top-1 per test image, through the receiver's own client")
    public_correct: list[bool] = Field(description="the same before training")
    serves: dict[str, float] = Field(default_factory=dict, description="entity -> top-1 on what its client releases")
    equivalence: dict[str, Equivalence] = Field(default_factory=dict, description="per sender")
    own_images: int = Field(description="of the receiver")
    shared_images: int = Field(0, description="of all senders together")


class SharingRecord(BaseModel):
    """The stored result of one unit. Figures are per image; boards average them."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    protocol: Literal["sharing"] = "sharing"
    id: str
    suite: str
    unit: AnyUnit
    words: Words | None = Field(None, description="none in records of before; see `words_of`")
    status: Literal["ok", "failed"]
    error: str | None = None
    trained: Trained | None = Field(None, description="of a training")
    floor: bool = Field(False, description="the attack reconstructs nothing: it sets the zero of the scale")
    fidelity: dict[str, list[float]] = Field(default_factory=dict, description="metric -> one figure per victim")
    missing_metrics: dict[str, str] = Field(default_factory=dict, description="metric -> why it is not there")
    victims: list[str] = Field(default_factory=list, description="content hash of each shared image under attack")
    recognition: Recognition | None = Field(None, description="among all images that the sender shared")
    trained_on: list[str] = Field(default_factory=list, description="metrics that the defense optimised against")
    converged: bool | None = None
    notes: dict[str, Any] = Field(default_factory=dict, description="what the attack said of itself")
    backbone_weights: str = ""
    refinement_version: int | None = None
    seconds: dict[str, float] = Field(default_factory=dict, description="wall time per stage")
    kept: dict[str, str] = Field(
        default_factory=dict, description="file of the run that shows this attack -> SHA-256 of its content"
    )
    environment: dict[str, Any] = Field(default_factory=dict)
    created: str = ""


def folder_of(run_dir: Path) -> Path:
    """Where the records of a run lie."""
    return run_dir / "sharing"


def record_path(run_dir: Path, unit_id: str) -> Path:
    """Where the record of a unit lies."""
    return folder_of(run_dir) / f"{unit_id}.json"


def is_sharing_run(run_dir: Path) -> bool:
    """Whether `dpbench run` wrote it for a suite of this protocol."""
    return folder_of(run_dir).is_dir()


def words_of(record: SharingRecord) -> Words:
    """What the unit of a record is called; no plug-in is imported."""
    return record.words or record.unit.words_by(described_defense)


def impossible(record: SharingRecord) -> list[str]:
    """What in a record cannot be, a phrase for each; empty where all can."""
    return list(_impossible(record))


def _impossible(record: SharingRecord) -> Iterator[str]:
    finished = record.status == "ok"
    unit = record.unit
    if finished and isinstance(unit, OnShared) and len(record.victims) != unit.victims:
        yield f"{len(record.victims)} victims, the unit has {unit.victims}"
    attacked = finished and isinstance(unit, OnShared)
    yield from of_attack(record.victims, record.fidelity, record.recognition, finished=attacked)
    if isinstance(unit, OnShared) and record.trained is not None:
        yield "an attack has trained nothing"
    if finished and not isinstance(unit, OnShared) and record.trained is None:
        yield "a finished training without what it came to"
    if record.trained is not None:
        yield from _of_training(record.trained)
    yield from of_times(record.seconds, record.created)


def _of_training(trained: Trained) -> Iterator[str]:
    if not trained.correct or len(trained.public_correct) != len(trained.correct):
        yield f"{len(trained.correct)} images before training, {len(trained.public_correct)} after"
    yield from number("own_images", trained.own_images, 0)
    yield from number("shared_images", trained.shared_images, 0)
    for entity, accuracy in trained.serves.items():
        yield from number(f"serves.{entity[:40]}", accuracy, 0, 1)
    for same in trained.equivalence.values():
        for name, largest in (("agreement", 1), ("accuracy", 1), ("kl", math.inf), ("distortion", math.inf)):
            yield from number(f"equivalence.{name}", getattr(same, name), 0, largest)


def write_record(run_dir: Path, record: SharingRecord) -> SharingRecord:
    """Store a record, atomically; returns what was stored, see `dpbench.records.store.storable`."""
    stored = storable(record)
    write_json(record_path(run_dir, record.id), stored, impossible)
    return stored


def storable(record: SharingRecord) -> SharingRecord:
    """As `dpbench.records.store.storable`."""
    fidelity, missing = sound_figures(record.fidelity, record.missing_metrics)
    record = record.model_copy(update={"fidelity": fidelity, "missing_metrics": missing})
    try:
        content_of(record, impossible)
    except Unstorable as error:
        return SharingRecord(
            id=record.id,
            suite=record.suite,
            unit=record.unit,
            words=record.words,
            status="failed",
            error=f"what was measured cannot be stored: {error}",
            environment=record.environment,
            created=record.created,
        )
    return record


def restore_records(run_dir: Path, records: Iterable[SharingRecord]) -> int:
    """Write again what was removed of these in the meantime; returns how many."""
    return len(restore(records, lambda r: record_path(run_dir, r.id), lambda r: write_record(run_dir, r)))


def read_record(path: Path) -> SharingRecord:
    """One record.

    Raises:
        DpbenchError: as `dpbench.records.record_files.read_json`.
    """
    return read_json(path, SharingRecord, schema=SCHEMA_VERSION, wrong=impossible)


def iter_records(run_dir: Path) -> Iterator[SharingRecord]:
    """Every record of a run, by name.

    Raises:
        DpbenchError: not a run directory of this protocol, or a record in it cannot be read.
    """
    if not is_sharing_run(run_dir):
        raise DpbenchError(
            f"{run_dir} holds no run of the protocol 'sharing': it has no folder 'sharing'; expected what "
            "`dpbench run` wrote for such a suite"
        )
    for path in sorted(folder_of(run_dir).glob("*.json")):
        if not path.name.startswith("."):
            yield read_record(path)


def all_records(run_dirs: Iterable[Path]) -> list[SharingRecord]:
    """The records of several runs, one for each unit: a finished one before a failed one, then the newest.

    Where one was measured again with newer plug-ins, only the newest.
    """
    return latest(record for run_dir in run_dirs for record in iter_records(run_dir))


def latest(records: Iterable[SharingRecord]) -> list[SharingRecord]:
    """As `all_records`, of records that were read."""
    found: dict[str, SharingRecord] = {}
    for record in sorted(records, key=lambda r: (r.status == "ok", r.created)):
        found[record.id] = record
    newest = {record.unit.asked: record for record in sorted(found.values(), key=lambda r: r.created)}
    return sorted(newest.values(), key=lambda record: record.id)
