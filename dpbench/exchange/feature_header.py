"""What a file of shared features says of itself: which public network they belong to, and how many there are.

A defense is named, no more: its parameters and fitted weights are what keeps the images private, and stay at home.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, PositiveInt, StringConstraints, model_validator
from torch import Tensor

from dpbench.errors import DpbenchError
from dpbench.toolkit.inversion import channel_axis

FORMAT_VERSION = 2
"""Raised when a file means something else than before; older versions stay readable."""

FLOATS_VERSION = 1
"""Format of files whose features are floats: unchanged since before integers were taken."""

FeatureLayout = Literal["NCHW", "NHWC", "NLC", "flat", "other"]
"""Axes of the features; N is the image, `flat` is one row of values for each."""

# headers come from strangers and end up in a terminal: no line breaks, no control characters
TextLine = Annotated[
    str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$")
]
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]


class Cut(BaseModel):
    """Which network is cut where: as much as a suite says before anything is computed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    backbone: TextLine = Field(description="a timm model")
    backbone_args: dict[str, JsonValue] = Field(description="passed on to timm.create_model")
    image_size: PositiveInt = Field(description="side of the images in pixels")
    split_point: TextLine = Field(description="the module whose output leaves the client")


class Network(Cut):
    """The public network as well, with its weights: what sender and receiver must agree on."""

    shape: tuple[PositiveInt, ...] = Field(min_length=1, description="of the released features of one image")
    layout: FeatureLayout = Field(description="axes of the features")
    packed: tuple[tuple[PositiveInt, ...], ...] = Field(
        description="shapes of the tensors that are released as one, see `SplitModel.packed`; empty for a single one"
    )
    classes: PositiveInt = Field(description="how many; a label is an index below it")
    class_names: tuple[TextLine, ...] = Field(description="of all classes, in the order of labels; empty without names")
    weights_hash: Hash = Field(description="start of the SHA-256 of the public backbone's state dict")

    @model_validator(mode="after")
    def _one_name_for_each_class(self) -> Self:
        if self.class_names and len(self.class_names) != self.classes:
            raise ValueError(f"{len(self.class_names)} class names for {self.classes} classes")
        return self


class FeatureHeader(Network):
    """The header of a file, as JSON in it."""

    format_version: PositiveInt = FLOATS_VERSION
    defense: TextLine = Field(description="name of the defense; never its parameters")
    defense_version: PositiveInt
    count: PositiveInt = Field(description="images")
    scale: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="of integers: they mean scale * (q - zero)"
    )
    zero_point: float | None = Field(None, allow_inf_nan=False, description="of integers, see scale; None of floats")
    digest: str = Field("", description="SHA-256 over tensors and header, see `features_digest`")

    def written(self) -> dict[str, JsonValue]:
        """As JSON in a file: of floats without what is said of integers, as it was before integers were taken."""
        return self.model_dump(mode="json", exclude={n for n in ("scale", "zero_point") if getattr(self, n) is None})


def layout_of(shape: tuple[int, ...]) -> FeatureLayout:
    """The axes of features whose shape for one image is `shape`: channels are where the rest of dpbench sees them."""
    if len(shape) == 3:
        return "NHWC" if channel_axis((1, *shape)) == 3 else "NCHW"
    return "flat" if len(shape) == 1 else "NLC" if len(shape) == 2 else "other"


def features_digest(header: FeatureHeader, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 in hex over the header without its digest, and every tensor's name, dtype, shape and values.

    It finds damage. It does not prove who wrote the file: whoever changes features can compute it anew. Where that
    matters, sign the file.

    Args:
        header: its `digest` does not count.
        tensors: name -> tensor on the CPU, of any shape.
    """
    digest = hashlib.sha256()
    about: list[dict[str, Any]] = [{key: value for key, value in header.written().items() if key != "digest"}]
    about += [{name: [str(tensors[name].dtype), *tensors[name].shape]} for name in sorted(tensors)]
    digest.update(json.dumps(about, sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


ADVICE = {
    "weights_hash": "sender and receiver must load one and the same file of weights: agree on it, and name it in both "
    "suites or by --weights FILE",
    "class_names": "agree on the classes and their order, and name the class folders alike",
    "classes": "agree on the classes",
    "backbone": "choose a suite with the file's backbone (or --only), or ask for features of yours",
    "split_point": "choose the file's split point in the suite (or --only), or ask for features of yours",
}
"""Field -> what to do where sender and receiver differ; for the others, agree on one suite."""


def assert_agrees(path: Path, came: FeatureHeader, expected: Cut) -> None:
    """Refuse a file that belongs to another network.

    Args:
        path: of the file, for the message.
        came: its header.
        expected: the receiver's own network; a `Cut` checks less than a `Network`.

    Raises:
        DpbenchError: the first field that differs, what came and what was expected.
    """
    for name in type(expected).model_fields:
        theirs, ours = getattr(came, name), getattr(expected, name)
        if theirs != ours:
            advice = ADVICE.get(name, "sender and receiver must use one suite: agree on it")
            found, wanted = _difference(theirs, ours)
            raise DpbenchError(
                f"{path} does not fit: its {name.replace('_', ' ')} is {found}, expected {wanted}; {advice}"
            )


def _difference(theirs: object, ours: object) -> tuple[str, str]:
    """Both values, short; of class names the first that differs."""
    if isinstance(theirs, tuple) and isinstance(ours, tuple) and len(theirs) == len(ours) and len(theirs) > 8:
        place = next(i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
        return f"{theirs[place]!r} at {place}", f"{ours[place]!r}"
    return _short(theirs), _short(ours)


def _short(value: object) -> str:
    text = re.sub(r"\s+", " ", repr(value))
    return text if len(text) <= 100 else f"{text[:97]}..."
