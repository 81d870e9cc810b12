"""Data sets by name, divided into private, auxiliary and test images that share no image.

A name is that of an embedded set (`EMBEDDED`), a folder of class folders, or one of timm's: `torch/...`, `hfds/...`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dpbench.data import division, images, leaves, spectra
from dpbench.data.division import PARTS, Decoded, Part, Progress, assert_disjoint, assert_enough, divide
from dpbench.data.folders import ClassFolders
from dpbench.data.images import Pixels
from dpbench.data.spec import DatasetSpec
from dpbench.data.timm_sets import TORCH_NAMES, fetch_pools, timm_name
from dpbench.errors import DpbenchError, unknown
from dpbench.text.hashing import content_hash as json_hash
from dpbench.text.limits import fields_of, limits_of

if TYPE_CHECKING:
    from dpbench.contract.images import LabelledImages


class Generator(Protocol):
    """A module that draws labelled images, each from (seed, index) alone: see `leaves`."""

    VERSION: int

    def draw(self, seed: int, indices: range, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """(N,3,size,size) images and (N,) labels of these indices."""


DRAWN = 1024
"""How many embedded images are drawn at once."""


@dataclass(frozen=True)
class Embedded:
    """A data set that is drawn, with no download: what draws it, its classes, and what `dpbench list` says."""

    generator: Generator
    classes: tuple[str, ...]
    about: str
    paper: str


EMBEDDED = {
    "leaves": Embedded(
        leaves,
        tuple(leaves.CLASSES),
        f"embedded: dead leaves with one of {len(leaves.CLASSES)} shapes in front, drawn from the seed",
        "Lee, Mumford & Huang 2001, Occlusion models for natural images",
    ),
    "spectra": Embedded(
        spectra,
        spectra.CLASSES,
        "embedded: coloured noise with the spectrum of natural images, drawn from the seed; for attackers without "
        "images like the victims'",
        "Baradad et al. 2021, Learning to see by looking at noise",
    ),
}


@dataclass(frozen=True)
class Parts:
    """Three parts that share no image. Images are (N,3,S,S) float32 in [0,1], on the CPU; see `load_parts`.

    Attributes:
        private: the defender's training images.
        auxiliary: the attacker's own images. Where it has classes of its own, their labels come after those of
            `classes`, and none of them is in the other parts.
        test: images for the accuracy; the first of them are the victims.
        classes: names of the labels.
        hashes: part -> content hash of each image.
    """

    private: LabelledImages
    auxiliary: LabelledImages
    test: LabelledImages
    classes: tuple[str, ...]
    hashes: dict[str, list[str]]


@dataclass(frozen=True)
class DatasetInfo:
    """What `dpbench list datasets` shows."""

    name: str
    about: str
    parameters: dict[str, Any]
    paper: str = ""


def known_datasets() -> list[DatasetInfo]:
    """Every kind of data set, with the parameters of `[dataset]` in a suite."""
    parameters = {
        name: {"default": field["default"], "about": field.get("description", ""), "range": limits_of(field)}
        for name, field in fields_of(DatasetSpec).items()
        if name != "name"
    }
    return [
        *(DatasetInfo(name, drawn.about, parameters, drawn.paper) for name, drawn in EMBEDDED.items()),
        DatasetInfo(
            "FOLDER",
            "a folder of your own: FOLDER/CLASS/*.jpg, or FOLDER/{train,test}/CLASS/*.jpg (also val, valid)",
            parameters,
        ),
        DatasetInfo("torch/NAME", f"torchvision through timm, downloaded: {', '.join(TORCH_NAMES)}", parameters),
        DatasetInfo("hfds/NAME", "Hugging Face datasets through timm, downloaded (pip install datasets)", parameters),
    ]


def fingerprint(spec: DatasetSpec) -> str:
    """Identifies the images and the way they are divided, without decoding any.

    Raises:
        DpbenchError: there is no such data set, or a folder cannot be used.
    """
    kind = _kind(spec.name)
    if kind == "embedded":
        if spec.auxiliary_classes:
            raise DpbenchError(
                f"auxiliary_classes = {spec.auxiliary_classes}: classes for the attacker alone are taken from a folder "
                f"of class folders, torch/... or hfds/..., not from the embedded {spec.name}; name another data set"
            )
        source: Any = [spec.name, EMBEDDED[spec.name].generator.VERSION]
    elif kind == "folder":
        source = ["folder", ClassFolders.look_into(spec).digest()]
    else:
        source = [kind, timm_name(spec.name), "train and test"]
    return json_hash([division.VERSION, source, spec.model_dump(mode="json", exclude={"name"})])[:40]


def left_out(spec: DatasetSpec) -> tuple[str, ...]:
    """What of a folder is not taken, or might be meant otherwise, in words; empty for other data sets."""
    return ClassFolders.look_into(spec).left_out if _kind(spec.name) == "folder" else ()


def classes_of(spec: DatasetSpec) -> tuple[tuple[str, ...], bool]:
    """Names of the task's classes in the order of the labels, as far as they are known without decoding an image.

    Returns:
        The names, empty for what is downloaded; and whether they are those of folders.
    """
    kind = _kind(spec.name)
    if kind == "folder":
        return division.of_the_task(spec, ClassFolders.look_into(spec).classes), True
    return (EMBEDDED[spec.name].classes if kind == "embedded" else ()), False


def load_parts(
    spec: DatasetSpec,
    *,
    cache: Path,
    progress: Progress = lambda text: None,
    room: int | None = None,
    expected: str = "",
) -> Parts:
    """The three parts, decoded, or taken from `cache` where they were decoded before.

    Decoding streams into the cache. Afterwards the images are tensors where all parts together fit, and otherwise
    read when they are asked for.

    Args:
        spec: which images, and how many.
        cache: a folder; it holds decoded images by fingerprint, and downloads.
        progress: shows a short text such as "decoding 512/6500".
        room: bytes that the images may take as floats; None: `dpbench.machine.memory.room` of the CPU.
        expected: what `fingerprint` gave when the run was planned; of folders it is looked at again.

    Raises:
        DpbenchError: the images cannot be used: too few, unreadable, corrupt, one class only; or a folder is not what
            it was.
    """
    found = fingerprint(spec)
    folder = _kind(spec.name) == "folder"
    if folder and expected and found != expected:
        raise _changed(spec)
    path = cache / f"{found}.npy"
    import torch

    from dpbench.contract.images import LabelledImages
    from dpbench.data.image_file import read_images
    from dpbench.machine import memory

    stored = read_images(path, spec)
    if stored is None:
        _decode(path, spec, cache, progress, unchanged=lambda: not folder or fingerprint(spec) == found)
        stored = read_images(path, spec)
        if stored is None:
            raise DpbenchError(f"{path} is damaged right after it was written; check the disk, or choose another cache")
    assert_disjoint(stored.decoded)
    room = memory.room(torch.device("cpu")) if room is None else room
    fits = 4 * sum(file.shape.numel() for file in stored.files.values()) <= room
    labelled = {
        name: LabelledImages(
            # one part after the other, so that no more than one is there as bytes too
            torch.from_numpy(stored.files[name].pixels(np.arange(len(part.hashes)))).float().div_(255)
            if fits
            else stored.files[name].images,
            torch.from_numpy(part.labels),
        )
        for name, part in stored.decoded.parts.items()
    }
    hashes = {name: part.hashes for name, part in stored.decoded.parts.items()}
    return Parts(**labelled, classes=stored.decoded.classes, hashes=hashes)


def _changed(spec: DatasetSpec) -> DpbenchError:
    return DpbenchError(f"data changed while the run went on: {spec.name} is not what it was; run again")


def _kind(name: str) -> str:
    """`embedded`, `folder`, `torch` or `hfds`."""
    if name in EMBEDDED:
        return "embedded"
    prefix, slash, rest = name.partition("/")
    if slash and rest and prefix.lower() in ("torch", "hfds"):
        return prefix.lower()
    path = Path(name).expanduser()
    if path.is_dir():
        return "folder"
    if path.exists():
        raise DpbenchError(f"{name} is a file; expected a folder of class folders (FOLDER/CLASS/*.jpg)")
    if "/" in name or os.sep in name or name.startswith((".", "~")):
        raise DpbenchError(f"there is no folder {name}; expected a folder of class folders (FOLDER/CLASS/*.jpg)")
    raise unknown("dataset", name, [info.name for info in known_datasets()])


def _decode(path: Path, spec: DatasetSpec, cache: Path, progress: Progress, unchanged: Callable[[], bool]) -> None:
    """Decode into `path`, image by image; what changed on the way is not kept."""
    from dpbench.data.image_file import Write, write_images

    kind = _kind(spec.name)
    if kind == "embedded":
        embedded = EMBEDDED[spec.name]

        def fill(write: Write) -> Decoded:
            return _draw(spec, embedded, progress, write)

    else:
        if kind == "folder":
            train, test, classes = ClassFolders.look_into(spec).pools(spec.image_size)
        else:
            train, test, classes = fetch_pools(spec, cache, progress)
            assert_enough(spec, train.labels, None if test is None else test.labels, len(classes))

        def fill(write: Write) -> Decoded:
            return divide(spec, train, test, classes, progress, write)

    def fill_unchanged(write: Write) -> Decoded:
        decoded = fill(write)
        if not unchanged():
            raise _changed(spec)
        return decoded

    write_images(path, spec, fill_unchanged)
    path.with_suffix(".safetensors").unlink(missing_ok=True)  # where dpbench kept the same images before 0.6


def _draw(
    spec: DatasetSpec, embedded: Embedded, progress: Progress, write: Callable[[str, int, Pixels], None]
) -> Decoded:
    progress(f"drawing {spec.name}")
    parts = {}
    for number, name in enumerate(PARTS):
        first = number << 40  # so a part does not depend on the sizes of the others
        labels, hashes = [], []
        for done in range(0, getattr(spec, name), DRAWN):
            chosen = range(first + done, first + min(done + DRAWN, getattr(spec, name)))
            pixels, drawn = embedded.generator.draw(spec.seed, chosen, spec.image_size)
            labels.append(drawn)
            for place, image in enumerate(pixels):
                write(name, done + place, image)
                hashes.append(images.content_hash(image))
        parts[name] = Part(np.concatenate(labels), hashes)
    return Decoded(parts, embedded.classes)
