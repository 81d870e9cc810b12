"""Where cells are measured, one after another, and how what was measured becomes the fields of a record."""

from __future__ import annotations

from typing import Any

from dpbench.cells.kept_images import keep_images
from dpbench.cells.pipeline import Pipeline
from dpbench.executors.stages import Stages
from dpbench.records.record import Memory
from dpbench.running.protocol import Lab, Plan
from dpbench.running.unit import Progress
from dpbench.suite import preflight
from dpbench.suite.cell import CellSpec
from dpbench.suite.words import label, words_for


class CellLab(Lab[CellSpec]):
    """Measures cells.

    Args:
        pipeline: on the device where every tensor lives.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.device = pipeline.device
        self._fetched: set[str] = set()

    def enter(self, unit: CellSpec, progress: Progress) -> None:
        """See `Lab`."""
        self.pipeline.prepared.parts(unit, progress)
        self.pipeline.prepared.auxiliary(unit, progress)

    def fetch(self, unit: CellSpec, progress: Progress) -> None:
        """See `Lab`."""
        self.enter(unit, progress)
        network = unit.backbone.model_dump_json()
        if network not in self._fetched:
            progress(f"weights of {unit.backbone.name}")
            preflight.read_weights(unit.backbone, unit.dataset.image_size)
            self._fetched.add(network)

    def describe(self, unit: CellSpec, plan: Plan[CellSpec, Any]) -> dict[str, Any]:
        """See `Lab`."""
        return {"headline": plan.suite.headline, "words": words_for(unit), "apart": self.pipeline.apart(unit)}

    def make(self, unit: CellSpec, name: str, progress: Progress) -> None:
        """See `Lab`."""
        prepared = self.pipeline.prepared
        prepared.start(unit)
        if name == "backbone":
            prepared.backbone(unit, progress)
        elif name == "judge":
            prepared.judge(unit, progress)
        elif name == "defense":
            prepared.protected(unit, unit.defense, progress)

    def measure(self, unit: CellSpec, plan: Plan[CellSpec, Any], stages: Stages, progress: Progress) -> dict[str, Any]:
        """See `Lab`."""
        result = self.pipeline.run(unit, stages, progress, combined=plan.everything)
        return {
            **result.envelope,
            "utility": result.utility,
            "released": result.released,
            "guarantees": result.guarantees,
            "kept": keep_images(plan.output, unit.id, result, title=label(unit), frames=result.frames),
        }

    def spent(self, stages: Stages) -> dict[str, Any]:
        """See `Lab`."""
        batches = self.pipeline.batches
        return {
            "memory": Memory(batch_size=batches.smallest, halved=batches.halved, peak_bytes=stages.peak_bytes),
            "seconds": stages.seconds,
            "peak_memory_mb": stages.peak_memory_mb,
        }
