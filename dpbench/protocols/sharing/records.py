"""A JSON record per unit of a sharing suite, each written whole or not at all: DIR/sharing/UNIT.json."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from dpbench.metrics.linkage import Link
from dpbench.protocols.sharing.units import AnyUnit, OnShared, Unit
from dpbench.records.collected import Head
from dpbench.records.ranges import number, of_attack, of_times
from dpbench.records.record import Envelope, of_cost, of_link
from dpbench.records.store import Store
from dpbench.service.costs import TIMED, ClientCost
from dpbench.suite.words import Words, words_of_plugin

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


class SharingRecord(Envelope):
    """The stored result of one unit."""

    SCHEMA: ClassVar[int] = SCHEMA_VERSION

    schema_version: int = SCHEMA_VERSION
    protocol: Literal["sharing"] = "sharing"
    unit: AnyUnit
    trained: Trained | None = Field(None, description="of a training")
    refinement_version: int | None = None
    apart: list[Literal["defense", "attack"]] = Field(
        default_factory=list, description="plug-ins that ran in processes of their own; of none in older records"
    )
    release_bits: int | None = Field(None, description="bits of one shared release of one image, without a coder")
    cost: ClientCost | None = Field(None, description="of the sender's client, for one image; none in older records")
    client_ms: float | None = Field(
        None, description=f"milliseconds in which the sender's client releases {TIMED} images; the median"
    )
    link: Link | None = Field(None, description="the victims among candidates, by what was shared")

    @property
    def named(self) -> Words:
        """See `Envelope`."""
        return self.words or self.unit.words_by(words_of_plugin)

    @property
    def attacked(self) -> bool:
        """See `Envelope`."""
        return isinstance(self.unit, OnShared)

    def impossible(self) -> list[str]:
        """See `Envelope`."""
        return list(_impossible(self))


def _impossible(record: SharingRecord) -> Iterator[str]:
    finished = record.status == "ok"
    unit = record.unit
    if finished and isinstance(unit, OnShared) and len(record.victims) != unit.victims:
        yield f"{len(record.victims)} victims, the unit has {unit.victims}"
    attacked = finished and isinstance(unit, OnShared)
    yield from of_attack(record.victims, record.fidelity, record.recognition, metrics=record.metrics, finished=attacked)
    if isinstance(unit, OnShared) and record.trained is not None:
        yield "an attack has trained nothing"
    if finished and not isinstance(unit, OnShared) and record.trained is None:
        yield "a finished training without what it came to"
    if record.trained is not None:
        yield from _of_training(record.trained)
    yield from of_cost(record.cost, record.client_ms, record.release_bits)
    yield from of_link(record.link, len(record.victims))
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


SHARED = Store("sharing", SharingRecord)
"""Where records of sharing suites lie: in `sharing/` of a run directory."""


H = TypeVar("H", SharingRecord, Head)


def latest(records: Iterable[H]) -> list[H]:
    """Of several records of one unit the one that counts: a finished one before a failed one, then the newest.

    Where one was measured again with newer plug-ins, or beside other metrics, only the newest.
    """
    found: dict[str, H] = {}
    for record in sorted(records, key=lambda r: (r.status == "ok", r.created)):
        found[record.id] = record
    newest = {_asked(record.unit_measured): record for record in sorted(found.values(), key=lambda r: r.created)}
    return sorted(newest.values(), key=lambda record: record.id)


def _asked(unit: Unit) -> str:
    """Equal for units that differ in the code of their plug-ins, or in what is measured beside, alone."""
    return (unit.model_copy(update={"metrics": ()}) if isinstance(unit, OnShared) else unit).version_free_id
