"""What a cell is: one pairing of a defense with an attack, in a frozen, validated object."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, Self

from pydantic import Field

from dpbench.contract.spec import PluginSpec, Seed, Spec
from dpbench.contract.threat import AuxiliaryData, Budget, ServerRole, ThreatModel
from dpbench.data.spec import DatasetSpec
from dpbench.models.spec import BackboneSpec
from dpbench.text.hashing import content_hash


class JudgeSpec(Spec):
    """The classifier that reads labels from reconstructions: of another architecture than the model under attack."""

    name: str = Field(description="a timm model")
    epochs: int = Field(6, ge=1, le=1000, description="of fitting, on the private images")
    learning_rate: float = Field(4e-3, gt=0, le=1, description="peak of the one-cycle schedule, AdamW")

    def backbone(self) -> BackboneSpec:
        """The judge as a network to fit."""
        return BackboneSpec(weights="fit", **self.model_dump())


class CellSpec(Spec):
    """One pairing: dataset x backbone x split point x defense x attack x threat model x seed."""

    ids_skip_default = ("judge", "server", "combined", "metrics")

    dataset: DatasetSpec
    data_fingerprint: str = Field(description="identifies the images themselves, wherever the folder lies")
    backbone: BackboneSpec
    weights_fingerprint: str = Field("", description="SHA-256 of the backbone's weights, if they come from a file")
    split_point: str
    defense: PluginSpec
    attack: PluginSpec
    threat_model: ThreatModel
    shifted: DatasetSpec | None = Field(None, description="where the attacker's images come from, if from elsewhere")
    shifted_fingerprint: str = ""
    releases: int = Field(1, ge=1, description="of each victim, all seen by the attacker")
    budget: Budget = "standard"
    victims: int = Field(ge=1)
    seed: Seed = 0
    judge: JudgeSpec | None = Field(None, description="by default the one in `dpbench.metrics.judge`")
    server: ServerRole = Field("attacker", description="who holds the server's half")
    combined: tuple[str, ...] = Field((), description="ids of the cells whose reconstructions the attack combines")
    metrics: tuple[PluginSpec, ...] = Field((), description="what is measured beside dpbench's own metrics")

    @property
    def auxiliary(self) -> AuxiliaryData:
        """Which images the attacker has."""
        return "same" if self.shifted is None else "shifted"

    @property
    def backbone_identity(self) -> dict[str, Any]:
        """The backbone as JSON, its files named by their content: they may move."""
        return self.backbone.identity(self.weights_fingerprint)

    @property
    def granted(self) -> str:
        """What the attacker is granted, in words: `query`, `weights shifted releases=4 large`."""
        words: list[str] = [self.threat_model]
        words += [self.auxiliary] if self.shifted is not None else []
        words += [f"releases={self.releases}"] if self.releases > 1 else []
        words += [self.budget] if self.budget != "standard" else []
        words += ["server=trusted"] if self.server == "trusted" else []
        return " ".join(words)

    @property
    def id(self) -> str:
        """A readable, file-safe name that ends in a hash of everything that affects the result."""
        words = (self.backbone.name, self.split_point, self.defense.name, self.attack.name, self.granted)
        stem = "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", word.rsplit("/", 1)[-1])[:32] for word in words)
        return f"{stem}-s{self.seed}-{self.identity}"

    @functools.cached_property
    def identity(self) -> str:
        """The end of the id: a hash of everything that affects the result."""
        return content_hash(self._identified(lambda plugin: plugin.identity))[:10]

    @property
    def version_free_id(self) -> str:
        """As `identity`, without the versions of its plug-ins and their files: equal before and after they change."""
        return content_hash(self._identified(lambda plugin: plugin.version_free))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other fields has another identity."""
        copied = super().model_copy(update=update, deep=deep)
        vars(copied).pop("identity", None)
        return copied

    @property
    def drawn_by(self) -> str:
        """Seeds the attack: the id, whatever is measured beside. Another metric does not change what is measured."""
        return self.model_copy(update={"metrics": ()}).id

    def _identified(self, told: Callable[[PluginSpec], dict[str, Any]]) -> dict[str, Any]:
        """As JSON without the places of files; `told` says which plug-in."""
        spec = self.model_dump(mode="json") | {"defense": told(self.defense), "attack": told(self.attack)}
        if self.metrics:
            spec["metrics"] = [told(metric) for metric in self.metrics]
        for table in [spec["dataset"], *([spec["shifted"]] if self.shifted is not None else [])]:
            table.pop("name")  # the fingerprint says which images; the folder may move
            table.pop("arguments", None)
        spec.pop("weights_fingerprint")
        spec["backbone"] = self.backbone_identity
        return spec
