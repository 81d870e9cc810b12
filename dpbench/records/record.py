"""The stored result of one cell."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dpbench.metrics.guarantees import Guarantees
from dpbench.metrics.recognition import Recognition
from dpbench.suite.cell import CellSpec
from dpbench.suite.words import Words, words_of_cell

SCHEMA_VERSION = 3
"""3: sealed with a digest, names its plug-ins in words. Older records are read."""


METRICS = ("mse", "psnr_db", "ssim", "lpips")


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
    words: Words | None = Field(None, description="none in records of before; see `dpbench.records.record.words_of`")
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
        description="shape (per image), dtype; shapes of the tensors packed in one; client_share: of the multiply-adds",
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


def words_of(record: Record) -> Words:
    """What the cell of a record is called."""
    return record.words or words_of_cell(record.cell)
