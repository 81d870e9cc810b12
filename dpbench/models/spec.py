"""Which network, and where its weights come from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from dpbench.contract.spec import PathName, Spec

WEIGHTS = ("auto", "pretrained", "fit", "at-hand")
"""Where a backbone's weights may come from, apart from a file."""

OWN = ".py:"
"""What a network of one's own has in its name: `my_net.py:build`."""

PROGRAMS = (".onnx", ".pt", ".ts", ".pt2")
"""Endings of the names of clients that are programs: ONNX, TorchScript and torch.export."""

ClassOrder = Literal["auto", "stated", "natural", "sorted"]
"""How the rows of a classifier that comes with its weights follow each other; see `dpbench.models.adapters`."""

Head = Literal["auto", "classifier", "probe", "knn", "zero-shot"]
"""What tells the classes apart at the end of the server's half; see `dpbench.models.adapters`."""

HEADS = ("probe", "knn", "zero-shot")
"""Those that stand on the final features of a network that is left as it is."""


class BackboneSpec(Spec):
    """A network, where its weights come from, and what tells the classes apart."""

    ids_skip_default = ("class_order", "head", "class_embeddings", "server", "files")

    name: str = Field(description="of a timm model, path/to/my_net.py:build, or the file of a program")
    weights: PathName = Field(
        "auto",
        description="pretrained: timm's; fit: trained on the private images; auto: pretrained if at hand; at-hand: "
        "pretrained, and left out of the run where they are not; or a FILE: safetensors or a PyTorch checkpoint",
    )
    epochs: int = Field(8, ge=0, le=1000, description="of fitting (or fine-tuning where the classes differ)")
    learning_rate: float = Field(4e-3, gt=0, le=1, description="peak of the one-cycle schedule, AdamW")
    args: dict[str, Any] = Field(default_factory=dict, description="passed on to timm.create_model")
    class_order: ClassOrder = Field(
        "auto",
        description="of a classifier that comes with the weights: stated in their file, natural (2 before 10) or "
        "sorted (alphabetically); auto: as stated, else for class folders natural, as timm has it",
    )

    head: Head = Field(
        "auto",
        description="classifier: the network's own, trained where it is of other classes; probe, knn: on the final "
        "features of the private images, and zero-shot: on class_embeddings, of a network that is left as it is; auto: "
        "a classifier, and a probe where the weights come without one",
    )
    class_embeddings: PathName = Field("", description="of zero-shot: a safetensors or .npz FILE")
    server: PathName = Field(
        "", description="of a client that is a program: the program that takes what it sends; by default a head does"
    )
    files: dict[str, str] = Field({}, description="files that are read -> SHA-256; filled in when a run is planned")

    @field_validator("args")
    @classmethod
    def _plain_args(cls, args: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(args, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"no record can hold that ({error}); expected finite numbers, texts, tables") from error
        return args

    @model_validator(mode="after")
    def _embeddings_for_zero_shot(self) -> BackboneSpec:
        if (self.head == "zero-shot") != bool(self.class_embeddings):
            raise ValueError('head = "zero-shot" and class_embeddings = FILE belong together: expected both or neither')
        return self

    @model_validator(mode="after")
    def _server_of_a_program(self) -> BackboneSpec:
        if self.server and not self.program:
            raise ValueError(
                f"server = FILE belongs to a client that is a program: name = FILE ({', '.join(PROGRAMS)})"
            )
        return self

    @property
    def own(self) -> bool:
        """Whether the network is made by a function in a file, or of programs; else it is timm's."""
        return OWN in self.name or self.program

    @property
    def program(self) -> bool:
        """Whether the client is a program: ONNX, TorchScript or torch.export."""
        return self.name.endswith(PROGRAMS)

    @property
    def shown(self) -> str:
        """The name; of a file without where it lies."""
        return re.split(r"[/\\]", self.name)[-1] if self.own else self.name

    @property
    def headed(self) -> bool:
        """Whether what tells the classes apart stands on final features, and the network is left as it is."""
        return self.head in HEADS

    def identity(self, weights_fingerprint: str) -> dict[str, Any]:
        """As JSON without the places of files.

        Args:
            weights_fingerprint: SHA-256 of the weights file; empty where there is none.
        """
        spec = self.model_dump(mode="json")
        spec["name"] = self.shown
        if self.server:
            spec["server"] = f"file:{self.files.get('server', '')}"
        if weights_fingerprint:
            spec["weights"] = f"file:{weights_fingerprint}"
        if self.class_embeddings and "class_embeddings" in self.files:
            spec["class_embeddings"] = f"file:{self.files['class_embeddings']}"
        return spec

    @property
    def weights_file(self) -> Path | None:
        """The file that holds the weights, if they come from one."""
        return None if self.weights in WEIGHTS else Path(self.weights).expanduser()
