"""Which network, and where its weights come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from dpbench.contract.spec import PathName, Spec

WEIGHTS = ("auto", "pretrained", "fit")
"""Where a backbone's weights may come from, apart from a file."""

ClassOrder = Literal["auto", "stated", "natural", "sorted"]
"""How the rows of a classifier that comes with its weights follow each other; see `dpbench.models.weights`."""


class BackboneSpec(Spec):
    """A timm model and where its weights come from."""

    ids_skip_default = ("class_order",)

    name: str
    weights: PathName = Field(
        "auto",
        description="pretrained: timm's; fit: trained on the private images; auto: pretrained if at hand; "
        "or a FILE: safetensors or a PyTorch checkpoint",
    )
    epochs: int = Field(8, ge=0, le=1000, description="of fitting (or fine-tuning where the classes differ)")
    learning_rate: float = Field(4e-3, gt=0, le=1, description="peak of the one-cycle schedule, AdamW")
    args: dict[str, Any] = Field(default_factory=dict, description="passed on to timm.create_model")
    class_order: ClassOrder = Field(
        "auto",
        description="of a classifier that comes with the weights: stated in their file, natural (2 before 10) or "
        "sorted (alphabetically); auto: as stated, else for class folders natural, as timm has it",
    )

    @field_validator("args")
    @classmethod
    def _plain_args(cls, args: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(args, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"no record can hold that ({error}); expected finite numbers, texts, tables") from error
        return args

    @property
    def weights_file(self) -> Path | None:
        """The file that holds the weights, if they come from one."""
        return None if self.weights in WEIGHTS else Path(self.weights).expanduser()
