"""Data sets by name where a name may be a plug-in's: what draws the images, here or in a process of its own."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from dpbench.border.host import Guest
from dpbench.border.wire import Message
from dpbench.contract.dataset import Drawn, ImageSet, PartName, checked_classes
from dpbench.contract.plugin import Plugin
from dpbench.contract.spec import PluginSpec
from dpbench.data import datasets
from dpbench.data.datasets import Parts
from dpbench.data.division import Progress
from dpbench.data.embedded import drawing
from dpbench.data.embedded.drawing import Source
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError
from dpbench.plugins.configuring import configure
from dpbench.plugins.registry import find, image_sets
from dpbench.plugins.sources import files_of, source_of
from dpbench.plugins.stand_in import ImageSetStandIn


def fingerprint(spec: DatasetSpec) -> str:
    """See `dpbench.data.datasets.fingerprint`; of a plug-in its code and the files that it is given count too."""
    return datasets.fingerprint(spec, find_source)


def classes_of(spec: DatasetSpec) -> tuple[tuple[str, ...], bool]:
    """See `dpbench.data.datasets.classes_of`."""
    return datasets.classes_of(spec, find_source)


def left_out(spec: DatasetSpec) -> tuple[str, ...]:
    """See `dpbench.data.datasets.left_out`."""
    return datasets.left_out(spec, find_source)


def content_of(spec: DatasetSpec, cache: Path) -> str:
    """See `dpbench.data.datasets.content_of`."""
    return datasets.content_of(spec, cache, find_source)


def load_parts(
    spec: DatasetSpec, *, cache: Path, progress: Progress, room: int | None = None, expected: str = ""
) -> Parts:
    """See `dpbench.data.datasets.load_parts`."""
    return datasets.load_parts(spec, cache=cache, progress=progress, room=room, expected=expected, find=find_source)


def find_source(spec: DatasetSpec) -> Source | None:
    """What draws the images of a data set; None for folders and what is downloaded.

    Raises:
        DpbenchError: a plug-in that is not there, does not import, names no classes, or has no such parameters.
    """
    name, own = spec.name, drawing.embedded(spec)
    if own is not None or not (".py:" in name or name in image_sets()):
        return own
    images = configure(find("data set", name), spec.arguments)
    try:
        images.assert_at_hand()
    except DpbenchError as error:
        raise DpbenchError(f"{name}: {error}") from error
    files = files_of(images)
    identity: list[Any] = ["plug-in", type(images).__name__, source_of(type(images)), sorted(files.items())]
    if spec.arguments:
        named = PluginSpec(name=name, arguments=images.model_dump(mode="json"), files=files)
        identity.append(named.identity["arguments"])
    if not isinstance(images, ImageSetStandIn):
        assert isinstance(images, ImageSet)
        return drawing.source_of(images, identity)
    classes = checked_classes(type(images).classes, name)
    return Source(identity, classes, functools.partial(_drawn, _Process(images)))


class _Process:
    """The process of a data set, which starts when images are first asked for."""

    def __init__(self, images: Plugin) -> None:
        assert isinstance(images, ImageSetStandIn)
        self.images = images
        self._guest: Guest | None = None

    @property
    def guest(self) -> Guest:
        """The engine's end of it."""
        if self._guest is None:
            self._guest = Guest(f"data set {self.images.reference!r}", torch.device("cpu"))
        return self._guest


def _drawn(process: _Process, spec: DatasetSpec, part: PartName, indices: range) -> Drawn:
    """Images and labels from the process of a plug-in, as they come: see `dpbench.contract.dataset.checked_images`."""
    asked = {
        "reference": process.images.reference,
        "sort": "data set",
        "arguments": process.images.model_dump(mode="json"),
        "part": part,
        "first": indices.start,
        "count": len(indices),
        "size": spec.image_size,
        "seed": spec.seed,
    }
    tensors = process.guest.request(Message("draw", asked)).tensors
    if not {"images", "labels"} <= set(tensors):
        raise DpbenchError(f"{process.guest.who} drew no images")
    return tensors["images"].numpy(), tensors["labels"].numpy()
