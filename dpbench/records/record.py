"""What a run stores: an envelope that every protocol fills in, and the record of one cell of an inference suite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from dpbench.contract.metric import MetricFacts
from dpbench.metrics.guarantees import Guarantees
from dpbench.metrics.linkage import Link
from dpbench.metrics.recognition import Recognition
from dpbench.records.ranges import HEADLINES, each, number, of_attack, of_times, sound_figures
from dpbench.service.costs import TIMED, ClientCost
from dpbench.suite.cell import CellSpec
from dpbench.suite.words import Words, ssim_text, words_of_cell

SCHEMA_VERSION = 3
"""3: sealed with a digest, names its plug-ins in words. Older records are read."""


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
    """How many images a network took at once while a cell was measured, and the most memory that was in use."""

    model_config = ConfigDict(extra="forbid")

    batch_size: int = Field(description="the most images at once in a network, in the stage that had the fewest")
    halved: int = Field(0, description="how often memory ran out, and a stage began again with half the batch")
    peak_bytes: int | None = Field(
        None, description="the most that was in use: of the device on CUDA, else resident memory of the process"
    )


class Envelope(BaseModel):
    """What the record of any unit holds, whichever protocol it belongs to. Figures are per image; boards average them.

    A protocol derives its record from it, with one more field for the unit, which `UNIT` names.
    """

    model_config = ConfigDict(extra="forbid")

    SCHEMA: ClassVar[int] = 1
    """The newest form that is understood, and the first whose records are all sealed with a digest."""

    UNIT: ClassVar[str] = "unit"
    """The field that holds what was measured."""

    schema_version: int = 1
    id: str
    suite: str
    words: Words | None = Field(None, description="what it is called; none in records of before")
    status: Literal["ok", "failed"]
    error: str | None = None
    floor: bool = Field(False, description="the attack reconstructs nothing: it sets the zero of the scale")
    fidelity: dict[str, list[float]] = Field(
        default_factory=dict, description="metric -> one figure per victim: mse, psnr_db, ssim, lpips, ms_ssim, others"
    )
    metrics: list[MetricFacts] = Field(
        default_factory=list, description="how figures are read that are not dpbench's own; their code is not needed"
    )
    missing_metrics: dict[str, str] = Field(default_factory=dict, description="metric or bound -> why it is not there")
    scored: list[str] = Field(
        default_factory=list, description="metrics measured afterwards, of the images that the run keeps in 8 bits"
    )
    victims: list[str] = Field(default_factory=list, description="content hash of each victim, in order")
    data_files: dict[str, str] = Field(
        default_factory=dict,
        description="dataset, shifted -> hash of what lay behind a name that the fingerprint takes at its word",
    )
    backbone_weights: str = Field("", description="where the weights came from, and their hash")
    recognition: Recognition | None = None
    trained_on: list[str] = Field(default_factory=list, description="metrics that the defense optimised against")
    converged: bool | None = Field(None, description="what the attack says of itself; None where it says nothing")
    notes: dict[str, Any] = Field(
        default_factory=dict,
        description="what the attack said of itself, `curves` what it logged; of what failed `traceback`: where",
    )
    seconds: dict[str, float] = Field(default_factory=dict, description="wall time per stage")
    kept: dict[str, str] = Field(
        default_factory=dict, description="file of the run that shows this attack -> SHA-256 of its content"
    )
    environment: dict[str, Any] = Field(default_factory=dict)
    created: str = ""

    @property
    def unit_measured(self) -> Any:
        """The cell, or unit of another protocol, that this record is the result of."""
        return getattr(self, self.UNIT)

    @property
    def named(self) -> Words:
        """What it is called; of a record of before what its unit's names and arguments say. No plug-in is imported."""
        return self.words or Words(label=self.id, full=self.id, defense="", attack="")

    @property
    def recovered(self) -> str:
        """How close its reconstructions come, means in words: `SSIM 0.83, LPIPS 0.04, re-id 97%`, where measured."""
        parts = [ssim_text(self.fidelity)]
        if similar := self.fidelity.get("lpips"):
            parts.append(f"LPIPS {sum(similar) / len(similar):.2f}")
        if self.recognition is not None and (ranks := self.recognition.reid_rank):
            parts.append(f"re-id {ranks.count(0) / len(ranks):.0%}")
        return ", ".join(parts)

    @property
    def attacked(self) -> bool:
        """Whether it is the result of an attack, with a picture."""
        return bool(self.victims)

    def impossible(self) -> list[str]:
        """What in this record cannot be true, a phrase for each; empty where all can be."""
        return [
            *of_attack(self.victims, self.fidelity, self.recognition, metrics=self.metrics, finished=False),
            *of_times(self.seconds, self.created),
        ]

    def sound(self) -> Self:
        """The record without figures that are no numbers, or cannot be: they count as not measured, with the reason."""
        fidelity, missing = sound_figures(self.fidelity, self.missing_metrics, self.metrics)
        return self.model_copy(update={"fidelity": fidelity, "missing_metrics": missing})

    def without_figures(self, error: str) -> Self:
        """The record of a unit that failed for this reason."""
        known = {name: getattr(self, name) for name in self.identifying}
        return type(self)(**known, status="failed", error=error)

    @property
    def identifying(self) -> tuple[str, ...]:
        """Fields that say what was to be measured, and where: they stay where figures do not."""
        return "id", "suite", self.UNIT, "words", "environment", "created"


class Record(Envelope):
    """The stored result of one cell."""

    SCHEMA: ClassVar[int] = SCHEMA_VERSION
    UNIT: ClassVar[str] = "cell"

    schema_version: int = SCHEMA_VERSION
    headline: str = Field("leakage", description="the figure that the suite is about, as a column of a board")
    cell: CellSpec
    apart: list[Literal["defense", "attack"]] = Field(
        default_factory=list, description="plug-ins that ran in processes of their own: see `dpbench.border`"
    )
    utility: Utility | None = None
    released: dict[str, Any] = Field(
        default_factory=dict,
        description="shape (per image), dtype; shapes of the tensors packed in one; client_share: of the multiply-adds,"
        " those of the defense too where there is a cost; none where some are not counted",
    )
    release_bits: int | None = Field(None, description="bits of one release of one image, at a fixed length per value")
    cost: ClientCost | None = Field(None, description="of the client, its defense included; none in records of before")
    client_ms: float | None = Field(
        None, description=f"milliseconds that the release of {TIMED} images takes on the machine at hand; the median"
    )
    link: Link | None = Field(None, description="the victims among candidates; none where no client can be asked")
    guarantees: Guarantees | None = Field(None, description="none for releases without additive noise")
    memory: Memory | None = Field(None, description="what bounded it; none in records of before")
    peak_memory_mb: dict[str, float] = Field(default_factory=dict, description="peak memory per stage, MiB")

    @property
    def named(self) -> Words:
        """See `Envelope`."""
        return self.words or words_of_cell(self.cell)

    def impossible(self) -> list[str]:
        """See `Envelope`."""
        return list(_impossible(self))

    def sound(self) -> Self:
        """See `Envelope`; bounds too."""
        record = super().sound()
        missing, guarantees = record.missing_metrics, record.guarantees
        if guarantees is None:
            return record
        sound = [value for value in guarantees.mse_bound if 0 <= value < float("inf")]
        if wrong := len(guarantees.mse_bound) - len(sound):
            reason = f"is no number for {wrong} of {len(record.victims)} victims: there is no bound"
            missing, guarantees = {**missing, "mse_bound": reason}, None
        elif guarantees.epsilon is not None and not 0 <= guarantees.epsilon < float("inf"):
            missing = {**missing, "epsilon": f"came out as {guarantees.epsilon}: there is none"}
            guarantees = guarantees.model_copy(update={"epsilon": None, "delta": None})
        if guarantees is not None and not 0 <= (guarantees.information_bits or 0) < float("inf"):
            missing = {**missing, "information_bits": f"came out as {guarantees.information_bits}: there are none"}
            guarantees = guarantees.model_copy(update={"information_bits": None})
        return record.model_copy(update={"guarantees": guarantees, "missing_metrics": missing})

    @property
    def identifying(self) -> tuple[str, ...]:
        """See `Envelope`."""
        return (*super().identifying, "headline")


APART: tuple[Literal["defense", "attack"], ...] = ("defense", "attack")
"""The plug-ins of a cell, as `Record.apart` names them."""


def _impossible(record: Record) -> Iterator[str]:
    count = len(record.victims)
    if record.status == "ok" and count != record.cell.victims:
        yield f"{count} victims, the cell has {record.cell.victims}"
    yield from of_attack(
        record.victims, record.fidelity, record.recognition, metrics=record.metrics, finished=record.status == "ok"
    )
    if record.utility is not None:
        correct, top5 = record.utility.correct, record.utility.top5
        if not correct:
            yield "utility.correct is empty"
        if top5 is not None and len(top5) != len(correct):
            yield f"utility.top5 has {len(top5)} images, utility.correct {len(correct)}"
        elif top5 is not None and any(one and not five for one, five in zip(correct, top5, strict=True)):
            yield "utility.top5 misses what utility.correct has"
    if record.guarantees is not None:
        yield from _of_guarantees(record.guarantees, count)
    yield from of_cost(record.cost, record.client_ms, record.release_bits)
    yield from of_link(record.link, count)
    if record.memory is not None:
        yield from number("memory.batch_size", record.memory.batch_size, 1)
        yield from number("memory.halved", record.memory.halved, 0)
        yield from number("memory.peak_bytes", record.memory.peak_bytes, 0)
    if "client_share" in record.released:
        share = record.released["client_share"]
        yield from number("released.client_share", "nothing" if share is None else share, 0, 1)
    if record.headline not in HEADLINES:
        yield f"headline is {record.headline[:40]!r}, expected one of {', '.join(HEADLINES)}"
    yield from of_times(record.seconds, record.created)
    for stage, peak in record.peak_memory_mb.items():
        yield from number(f"peak_memory_mb.{stage[:40]}", peak, 0)


def of_cost(cost: ClientCost | None, client_ms: float | None, release_bits: int | None) -> Iterator[str]:
    """What is wrong with what a release costs the client, as records of any protocol hold it."""
    yield from number("release_bits", release_bits, 0)
    yield from number("client_ms", client_ms, 0)
    if cost is None:
        return
    fixed = math.inf if release_bits is None else release_bits
    yield from number("cost.multiply_adds", cost.multiply_adds, 0)
    yield from number("cost.added_multiply_adds", cost.added_multiply_adds, -math.inf, _most(cost.multiply_adds))
    yield from number("cost.parameters", cost.parameters, 0)
    yield from number("cost.added_parameters", cost.added_parameters, -math.inf, _most(cost.parameters))
    yield from number("cost.coded_bits", cost.coded_bits, 0, fixed)


def _most(total: int | None) -> float:
    return math.inf if total is None else total


def of_link(link: Link | None, count: int) -> Iterator[str]:
    """What is wrong with what names so many victims among candidates."""
    if link is None:
        return
    if len(link.rank) != count:
        yield f"{len(link.rank)} answers of link for {count} victims"
    yield from number("link.candidates", link.candidates, max(1, count))
    yield from each("link.rank", link.rank, 0, link.candidates - 1)


def _of_guarantees(guarantees: Guarantees, count: int) -> Iterator[str]:
    if len(guarantees.mse_bound) != count:
        yield f"{len(guarantees.mse_bound)} values of mse_bound for {count} victims"
    yield from each("mse_bound", guarantees.mse_bound, 0, math.inf)
    yield from number("epsilon", guarantees.epsilon, 0)
    yield from number("delta", guarantees.delta, 0, 1)
    yield from number("information_bits", guarantees.information_bits, 0)
