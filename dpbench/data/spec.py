"""Which images: name, size and number of each disjoint part."""

from __future__ import annotations

from pydantic import Field

from dpbench.contract.spec import PathName, Seed, Spec


class DatasetSpec(Spec):
    """Which images, at which size, and how many for each of the three disjoint parts."""

    ids_skip_default = ("auxiliary_classes",)

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


class ShiftedSpec(Spec):
    """Another data set, for attackers who have no images like the victims'."""

    name: PathName = Field(description="as in [dataset]")
    auxiliary: int = Field(2000, ge=1, description="the attacker's images")
    seed: Seed = Field(0, description="draws them")

    def dataset(self, image_size: int) -> DatasetSpec:
        """The data set that holds these images, at the size of the victims."""
        return DatasetSpec(
            name=self.name, image_size=image_size, private=1, auxiliary=self.auxiliary, test=1, seed=self.seed
        )
