"""What one cell measured, before it becomes a record, and what releasing its test images gave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dpbench.border.crowd import Crowd
from dpbench.contract.metric import MetricFacts
from dpbench.metrics.guarantees import Guarantees
from dpbench.metrics.linkage import Link
from dpbench.metrics.recognition import Recognition
from dpbench.records.record import Utility
from dpbench.service.costs import ClientCost
from dpbench.service.release import Release


@dataclass(frozen=True)
class Released:
    """What releasing the test images gave.

    Attributes:
        release: the features, and what the server reads from them.
        utility: its hits.
        probe: one batch, to be released again after the attack.
        crowd: whom the client serves beside victims and attackers.
    """

    release: Release
    utility: Utility
    probe: Tensor
    crowd: Crowd


@dataclass(frozen=True)
class Result:
    """What a cell measured, before it becomes a record; `frames`: step -> image, (3,h,w), that the attack showed."""

    utility: Utility
    fidelity: dict[str, list[float]]
    metrics: list[MetricFacts]
    missing_metrics: dict[str, str]
    victims: Tensor
    victim_hashes: list[str]
    reconstructions: Tensor
    floor: bool
    data_files: dict[str, str]
    backbone_weights: str
    released: dict[str, Any]
    release_bits: int
    cost: ClientCost | None
    client_ms: float | None
    link: Link | None
    recognition: Recognition
    guarantees: Guarantees | None
    trained_on: list[str]
    notes: dict[str, Any]
    frames: dict[int, Tensor]

    @property
    def envelope(self) -> dict[str, Any]:
        """What the record of an attack holds of it, whichever protocol it belongs to."""
        converged = self.notes.get("converged")
        return {
            "floor": self.floor,
            "fidelity": self.fidelity,
            "metrics": self.metrics,
            "missing_metrics": self.missing_metrics,
            "victims": self.victim_hashes,
            "data_files": self.data_files,
            "backbone_weights": self.backbone_weights,
            "recognition": self.recognition,
            "release_bits": self.release_bits,
            "cost": self.cost,
            "client_ms": self.client_ms,
            "link": self.link,
            "trained_on": self.trained_on,
            "converged": converged if isinstance(converged, bool) else None,
            "notes": self.notes,
        }
