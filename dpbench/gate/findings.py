"""What the gate finds: differences between a board and an accepted one, and how much they may differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dpbench.board.columns import CELL_LAYOUT, Layout, Row
from dpbench.contract.metric import MetricFacts
from dpbench.metrics.table import Lpips, PsnrDb, Ssim

Kind = Literal[
    "changed setting",
    "missing",
    "not compared",
    "failed",
    "leaks more",
    "predicts worse",
    "missing figure",
    "other images",
    "leaks less",
    "predicts better",
    "recovered",
    "new",
]
FAILING: tuple[Kind, ...] = ("changed setting", "missing", "not compared", "failed", "leaks more", "predicts worse")
WARNING: tuple[Kind, ...] = ("missing figure", "other images")
OF_FIGURES: tuple[Kind, ...] = ("leaks more", "predicts worse", "leaks less", "predicts better")


class Tolerance(BaseModel):
    """How much worse a figure may be. A finding must also be more than chance, see `compare`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ssim: float = Field(Ssim.tolerance, ge=0)
    psnr_db: float = Field(PsnrDb.tolerance, ge=0, description="dB")
    lpips: float = Field(Lpips.tolerance, ge=0)
    leakage: float = Field(0.05, ge=0)
    reid_top1: float = Field(0.05, ge=0, description="0.05 is five percentage points")
    identity_top1: float = Field(0.05, ge=0, description="likewise")
    accuracy: float = Field(0.01, ge=0, description="0.01 is one percentage point")

    def of(self, metric: str, own: Mapping[str, MetricFacts]) -> float:
        """How much worse the mean of a metric may be; one that is not dpbench's own says so itself."""
        return own[metric].tolerance if metric in own else float(getattr(self, metric))


METRICS: tuple[str, ...] = tuple(Tolerance.model_fields)
"""Columns that the gate compares on every board."""


@dataclass(frozen=True)
class Finding:
    """One difference between candidate and baseline, in one row or in several."""

    kind: Kind
    row: Row
    message: str
    also: tuple[Row, ...] = ()
    """Further rows with the same finding."""

    @property
    def fails(self) -> bool:
        """Whether it makes the gate fail; the others are information."""
        return self.kind in FAILING

    @property
    def level(self) -> Literal["error", "warning", "notice"]:
        """The level of its GitHub annotation: error, warning or notice."""
        return "error" if self.fails else "warning" if self.kind in WARNING else "notice"

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows that it is about."""
        return self.row, *self.also


def together(findings: Iterable[Finding]) -> list[Finding]:
    """One finding for all rows of which the same is said, in the order of the first; a figure stays its row's."""
    rows: dict[tuple[Any, ...], list[Row]] = {}
    for finding in findings:
        alone = finding.row if finding.kind in OF_FIGURES else ()
        rows.setdefault((finding.kind, finding.message, alone), []).extend(finding.rows)
    return [Finding(kind, first, message, tuple(others)) for (kind, message, _), (first, *others) in rows.items()]


@dataclass(frozen=True)
class Comparison:
    """A board beside its baseline.

    Attributes:
        findings: what differs, what fails the gate first.
        rows: of the baseline.
        figures: how many figures were compared.
        notes: what was not compared, and what else the verdict rests on; a line each.
        layout: says what a row is called.
    """

    findings: list[Finding] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    figures: int = 0
    notes: list[str] = field(default_factory=list)
    layout: Layout = CELL_LAYOUT

    @property
    def passed(self) -> bool:
        """Whether nothing got worse."""
        return not any(finding.fails for finding in self.findings)

    def name(self, finding: Finding) -> str:
        """What a finding is about, in words."""
        return self.layout.said(finding.row) + and_more(finding.also)


def and_more(rows: Sequence[Row]) -> str:
    """` and 5 more rows`; nothing of none."""
    return f" and {len(rows)} more row{'s' if len(rows) > 1 else ''}" if rows else ""
