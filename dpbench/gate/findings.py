"""What the gate finds: differences from an accepted board and how much they may be, and limits on figures."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from dpbench.board.columns import CELL_LAYOUT, Layout, Row
from dpbench.contract.metric import MetricFacts
from dpbench.errors import DpbenchError
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
    link_top1: float = Field(0.05, ge=0, description="likewise")
    accuracy: float = Field(0.01, ge=0, description="0.01 is one percentage point")

    @field_validator("*", mode="before")
    @classmethod
    def _finite(cls, given: float, info: ValidationInfo) -> float:
        """With a tolerance that is no number, or infinite, the gate would always say the same."""
        if not math.isfinite(given):
            raise DpbenchError(f"{option(str(info.field_name))} {given}: expected a finite number from 0")
        return given

    def of(self, metric: str, own: Mapping[str, MetricFacts]) -> float:
        """How much worse the mean of a metric may be; one that is not dpbench's own says so itself."""
        return own[metric].tolerance if metric in own else float(getattr(self, metric))


METRICS: tuple[str, ...] = tuple(Tolerance.model_fields)
"""Columns that the gate compares on every board."""

OPTIONAL = ("lpips", "leakage", "reid_top1", "identity_top1", "link_top1")
"""Metrics that may be gone without failing the gate: they need weights that not every machine has, a scale, or a
client that can be asked."""


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


def needed(metric: str) -> bool:
    """Whether a figure that is gone, or cannot be compared, fails the gate."""
    return metric in METRICS and metric not in OPTIONAL


@dataclass
class Tally:
    """How much was compared, and what was not: said once for all rows of which it is so.

    Attributes:
        figures: how many were compared.
        apart: rows measured on other images, none in common.
        counts: said of how many images -> rows.
        empty: metric -> rows for which the baseline has none, and the candidate has.
        leakage: why leakage is not compared -> rows.
    """

    figures: int = 0
    apart: list[Row] = field(default_factory=list)
    counts: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    empty: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    leakage: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))

    def findings(self) -> list[Finding]:
        """Rows over other images, and those that cannot be compared: to pass them over would pass whatever leaks."""
        told = [("measured on other images than the baseline, none in common: no figure was compared", self.apart)]
        told += [
            (f"{metric} is empty in the baseline: nothing to compare it with", rows)
            for metric, rows in self.empty.items()
            if needed(metric)
        ]
        found = [Finding("not compared", rows[0], message, tuple(rows[1:])) for message, rows in told if rows]
        return found + [Finding("other images", rows[0], said, tuple(rows[1:])) for said, rows in self.counts.items()]

    def notes(self) -> list[str]:
        """Figures that need not be there."""
        lines = [
            f"{metric} is not in the baseline in {len(rows)} rows: not compared there"
            for metric, rows in self.empty.items()
            if not needed(metric)
        ]
        return lines + [f"leakage is not compared in {len(rows)} rows: {why}" for why, rows in self.leakage.items()]


class Figure(NamedTuple):
    """What a limit may be about.

    Attributes:
        column: of a board.
        said: in the verdict: `re-identified`.
        share: whether it is shown in percent.
        least: whether the limit is the least that is allowed, rather than the most.
        leaks: whether attacks measure it.
    """

    column: str
    said: str
    share: bool
    least: bool
    leaks: bool

    def shown(self, value: float, digits: int = 0) -> str:
        """`10%`, or `0.40`."""
        return f"{value:.{digits}%}" if self.share else f"{value:.{digits + 2}f}"


FIGURES = {
    "max_ssim": Figure("ssim", "SSIM", share=False, least=False, leaks=True),
    "max_reid": Figure("reid_top1", "re-identified", share=True, least=False, leaks=True),
    "max_identity": Figure("identity_top1", "identified", share=True, least=False, leaks=True),
    "max_link": Figure("link_top1", "named among candidates", share=True, least=False, leaks=True),
    "max_label_read": Figure("label_read", "label read", share=True, least=False, leaks=True),
    "max_leakage": Figure("leakage", "leakage", share=False, least=False, leaks=True),
    "min_accuracy": Figure("accuracy", "accuracy", share=True, least=True, leaks=False),
    "min_gain": Figure("gain", "gain", share=True, least=True, leaks=False),
    "max_drop": Figure("accuracy_drop", "accuracy lost", share=True, least=False, leaks=False),
}
"""Option -> what its limit is about."""


@dataclass(frozen=True)
class Limit:
    """The most, or the least, that a figure may be."""

    figure: Figure
    value: float

    def excess(self, value: float) -> float:
        """By how much a figure is beyond it; not above 0 where it stays within, infinite where there is no figure."""
        if math.isnan(value):
            return math.inf
        return self.value - value if self.figure.least else value - self.value

    def shown(self, value: float) -> str:
        """A figure as it stands beside the limit: with as many digits as tell the two apart."""
        texts = ((self.figure.shown(value, digits), self.figure.shown(self.value, digits)) for digits in range(5))
        return next((text for text, limit in texts if text != limit), self.figure.shown(value))

    @property
    def text(self) -> str:
        """The limit itself, with all its digits."""
        return f"{100 * self.value:.6g}%" if self.figure.share else f"{self.value:.6g}"


def limits(given: Mapping[str, float | None]) -> list[Limit]:
    """Option -> value, of those of `FIGURES` that are given.

    Raises:
        DpbenchError: none is, or one is no number that its figure could have.
    """
    for name, value in given.items():
        if value is not None and not 0 <= value <= 1:  # nan is not either
            raise DpbenchError(f"{option(name)} {value:g}: expected a number from 0 to 1; 0.1 is ten percent")
    found = [Limit(FIGURES[name], value) for name, value in given.items() if value is not None]
    if not found:
        raise DpbenchError(
            f"no limit given: a gate without one would always pass; give one of {', '.join(map(option, FIGURES))}"
        )
    return found


def option(name: str) -> str:
    """`max_ssim` -> `--max-ssim`."""
    return f"--{name.replace('_', '-')}"
