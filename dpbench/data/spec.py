"""Which images: name, size and number of each disjoint part."""

from __future__ import annotations

import re
from typing import Any, Self

from pydantic import Field, model_validator

from dpbench.contract.spec import PathName, Seed, Spec


class _Named(Spec):
    """A data set by its name; of a plug-in also its parameters, as `weight = 2` beside `name = "mine.py:MySet"`."""

    name: PathName
    arguments: dict[str, Any] = Field({}, description="parameters of a data set that is a plug-in")

    @model_validator(mode="before")
    @classmethod
    def _parameters_apart(cls, given: Any) -> Any:
        """Of a set in a file, keys that are none of the table's are parameters."""
        if not isinstance(given, dict) or ".py:" not in str(given.get("name", "")):
            return given
        further = {key: value for key, value in given.items() if key not in cls.model_fields}
        table = {key: value for key, value in given.items() if key not in further}
        arguments = table.get("arguments", {})
        return table | {"arguments": arguments | further} if further and isinstance(arguments, dict) else given

    @property
    def shown_arguments(self) -> dict[str, Any]:
        """The parameters as boards show them: of a path its last part."""
        return {
            name: re.split(r"[/\\]", value)[-1] if isinstance(value, str) else value
            for name, value in self.arguments.items()
        }

    def renamed(self, name: str) -> Self:
        """The same table with another data set; the parameters stay where it is the same class in another place."""
        kept = self.arguments if ".py:" in name and name.rpartition(":")[2] == self.name.rpartition(":")[2] else {}
        return self.model_copy(update={"name": name, "arguments": kept})


class DatasetSpec(_Named):
    """Which images, at which size, and how many for each of the three disjoint parts."""

    ids_skip_default = ("auxiliary_classes", "arguments")

    name: PathName = Field(
        "leaves", description="leaves, spectra, a folder of class folders, or timm's torch/... and hfds/... names"
    )
    image_size: int = Field(32, ge=16, le=512, description="side in pixels; other sizes are resized and cropped")
    private: int = Field(4000, ge=1, description="the defender's training images")
    auxiliary: int = Field(2000, ge=1, description="the attacker's own images")
    test: int = Field(500, ge=1, description="images for the accuracy; the first of them are the victims")
    seed: Seed = Field(0, description="draws the parts (and the embedded images)")
    auxiliary_classes: int = Field(
        0, ge=0, description="classes that are the attacker's alone: its images show these, the other parts never do"
    )


class ShiftedSpec(_Named):
    """Another data set, for attackers who have no images like the victims'."""

    ids_skip_default = ("arguments",)

    name: PathName = Field(description="as in [dataset]")
    auxiliary: int = Field(2000, ge=1, description="the attacker's images")
    seed: Seed = Field(0, description="draws them")

    def dataset(self, image_size: int) -> DatasetSpec:
        """The data set that holds these images, at the size of the victims."""
        return DatasetSpec(
            name=self.name,
            arguments=self.arguments,
            image_size=image_size,
            private=1,
            auxiliary=self.auxiliary,
            test=1,
            seed=self.seed,
        )
