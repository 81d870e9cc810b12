"""A JSON record per unit of a sharing suite, each written whole or not at all: DIR/sharing/UNIT.json."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dpbench.errors import DpbenchError
from dpbench.sharing.units import AnyUnit
from dpbench.store import Recognition, read_json, write_json

SCHEMA_VERSION = 1


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


def write_record(run_dir: Path, record: SharingRecord) -> None:
    """Store a record, atomically."""
    write_json(record_path(run_dir, record.id), record)


def read_record(path: Path) -> SharingRecord:
    """One record.

    Raises:
        DpbenchError: as `dpbench.store.read_json`.
    """
    return read_json(path, SharingRecord, schema=SCHEMA_VERSION)


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
    found: dict[str, SharingRecord] = {}
    records = [record for run_dir in run_dirs for record in iter_records(run_dir)]
    for record in sorted(records, key=lambda r: (r.status == "ok", r.created)):
        found[record.id] = record
    newest = {record.unit.asked: record for record in sorted(found.values(), key=lambda r: r.created)}
    return sorted(newest.values(), key=lambda record: record.id)
