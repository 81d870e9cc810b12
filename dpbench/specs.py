"""What a cell is, in frozen, validated objects: parsed once at the edge, then only passed on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from dpbench.parameters import Parameters
from dpbench.types import AuxiliaryData, Budget, ServerRole, ThreatModel

WEIGHTS = ("auto", "pretrained", "fit")
"""Where a backbone's weights may come from, apart from a file."""


class Spec(Parameters):
    """Anything in a suite."""


class DatasetSpec(Spec):
    """Which images, at which size, and how many for each of the three disjoint parts."""

    later = ("auxiliary_classes",)

    name: str = Field(
        "leaves", description="leaves, spectra, a folder of class folders, or timm's torch/... and hfds/... names"
    )
    image_size: int = Field(32, ge=16, le=512, description="side in pixels; other sizes are resized and cropped")
    private: int = Field(4000, ge=1, description="the defender's training images")
    auxiliary: int = Field(2000, ge=1, description="the attacker's own images")
    test: int = Field(500, ge=1, description="images for the accuracy; the first of them are the victims")
    seed: int = Field(0, ge=0, description="draws the parts (and the embedded images)")
    auxiliary_classes: int = Field(
        0, ge=0, description="classes that are the attacker's alone: its images show these, the other parts never do"
    )


class ShiftedSpec(Spec):
    """Another data set, for attackers who have no images like the victims'."""

    name: str = Field(description="as in [dataset]")
    auxiliary: int = Field(2000, ge=1, description="the attacker's images")
    seed: int = Field(0, ge=0, description="draws them")

    def dataset(self, image_size: int) -> DatasetSpec:
        """The data set that holds these images, at the size of the victims."""
        return DatasetSpec(
            name=self.name, image_size=image_size, private=1, auxiliary=self.auxiliary, test=1, seed=self.seed
        )


class BackboneSpec(Spec):
    """A timm model and where its weights come from."""

    name: str
    weights: str = Field(
        "auto",
        description="pretrained: timm's; fit: trained on the private images; auto: pretrained if at hand; "
        "or a FILE: safetensors or a PyTorch checkpoint",
    )
    epochs: int = Field(8, ge=0, le=1000, description="of fitting (or fine-tuning where the classes differ)")
    learning_rate: float = Field(4e-3, gt=0, le=1, description="peak of the one-cycle schedule, AdamW")
    args: dict[str, Any] = Field(default_factory=dict, description="passed on to timm.create_model")

    @property
    def weights_file(self) -> Path | None:
        """The file that holds the weights, if they come from one."""
        return None if self.weights in WEIGHTS else Path(self.weights).expanduser()


class JudgeSpec(Spec):
    """The classifier that reads labels from reconstructions: of another architecture than the model under attack."""

    name: str = Field(description="a timm model")
    epochs: int = Field(6, ge=1, le=1000, description="of fitting, on the private images")
    learning_rate: float = Field(4e-3, gt=0, le=1, description="peak of the one-cycle schedule, AdamW")

    def backbone(self) -> BackboneSpec:
        """As a network to fit."""
        return BackboneSpec(weights="fit", **self.model_dump())


class PluginSpec(Spec):
    """An attack or a defense with all its parameters, defaults filled in, and what identifies its code."""

    later = ("files",)

    name: str
    source: str = Field("v1", description="version of the plug-in, and a content hash of code that is not dpbench's")
    arguments: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, str] = Field(
        {}, description="files of a plug-in's folder, and parameters that are files -> digits of their SHA-256"
    )

    @property
    def identity(self) -> dict[str, Any]:
        """As JSON without the places of files: neither where the code lies, nor what it is given to read."""
        spec = self.model_dump(mode="json")
        if ".py:" in self.name:
            spec["name"] = _last(self.name)

        def content(name: str, value: Any) -> str:
            return f"sha256:{self.files[name]}"

        spec["arguments"] = {name: self._with_files(name, value, content) for name, value in self.arguments.items()}
        return spec

    @property
    def shown_arguments(self) -> dict[str, Any]:
        """The arguments as boards show them: of a file its name and the start of its hash, not where it lies."""

        def shown(name: str, value: Any) -> str:
            return f"{_last(str(value))}:{self.files[name][:8]}"

        return {name: self._with_files(name, value, shown) for name, value in self.arguments.items()}

    def _with_files(self, name: str, value: Any, instead: Callable[[str, Any], str]) -> Any:
        if name in self.files:
            return instead(name, value)
        if isinstance(value, dict):
            return {key: self._with_files(f"{name}.{key}", inner, instead) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._with_files(f"{name}.{place}", inner, instead) for place, inner in enumerate(value)]
        return value

    @property
    def asked(self) -> dict[str, Any]:
        """As JSON without what identifies code and files: equal for the same request before and after a change."""
        return self.model_dump(mode="json", exclude={"source", "files"})


class CellSpec(Spec):
    """One pairing: dataset x backbone x split point x defense x attack x threat model x seed."""

    later = ("judge", "server", "combined")

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
    seed: int = Field(0, ge=0)
    judge: JudgeSpec | None = Field(None, description="by default the one in `dpbench.recognition`")
    server: ServerRole = Field("attacker", description="who holds the server's half")
    combined: tuple[str, ...] = Field((), description="ids of the cells whose reconstructions the attack combines")

    @property
    def auxiliary(self) -> AuxiliaryData:
        """Which images the attacker has."""
        return "same" if self.shifted is None else "shifted"

    @property
    def backbone_identity(self) -> dict[str, Any]:
        """The backbone as JSON, a weights file named by its content: the file may move."""
        spec = self.backbone.model_dump(mode="json")
        return {**spec, "weights": f"file:{self.weights_fingerprint}"} if self.weights_fingerprint else spec

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
        digest = content_hash(self._identified(self.defense.identity, self.attack.identity))
        words = (self.backbone.name, self.split_point, self.defense.name, self.attack.name, self.granted)
        stem = "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", word.rsplit("/", 1)[-1])[:32] for word in words)
        return f"{stem}-s{self.seed}-{digest[:10]}"

    @property
    def asked(self) -> str:
        """Identifies it whatever the code of its plug-ins and the content of their files: the id, but for those."""
        return content_hash(self._identified(self.defense.asked, self.attack.asked))

    def _identified(self, defense: dict[str, Any], attack: dict[str, Any]) -> dict[str, Any]:
        """As JSON without the places of files."""
        spec = self.model_dump(mode="json") | {"defense": defense, "attack": attack}
        spec["dataset"].pop("name")  # the fingerprint says which images; the folder may move
        if self.shifted is not None:
            spec["shifted"].pop("name")
        spec.pop("weights_fingerprint")
        spec["backbone"] = self.backbone_identity
        return spec


def _last(path: str) -> str:
    return re.split(r"[/\\]", path)[-1]


def content_hash(value: Any) -> str:
    """SHA-256 in hex of a JSON value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
