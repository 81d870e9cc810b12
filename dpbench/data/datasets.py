"""Data sets by name, divided into private, auxiliary and test images that share no image.

A name is that of an embedded set (`BUILT_IN`), a folder of class folders, or one of timm's: `torch/...`, `hfds/...`.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpbench.data import division, timm_sets
from dpbench.data.division import Decoded, Progress, assert_disjoint, assert_enough, divide
from dpbench.data.embedded.drawing import BUILT_IN, Source, embedded, write_drawn
from dpbench.data.folders import ClassFolders
from dpbench.data.spec import DatasetSpec
from dpbench.data.timm_sets import TORCH_NAMES, fetch_pools, timm_name
from dpbench.errors import DpbenchError, unknown
from dpbench.machine.writing import Unwritable, write_atomically
from dpbench.text.hashing import content_hash as json_hash
from dpbench.text.limits import fields_of, limits_of

if TYPE_CHECKING:
    from dpbench.contract.images import LabelledImages


OF_A_PLUGIN = "Let the data set draw each image in one part alone, and no image twice"
OF_DPBENCH = "Delete the cached data set and run again; if it comes back, this is a bug in dpbench"
"""What to do where parts share an image."""

Find = Callable[[DatasetSpec], Source | None]
"""What draws the images of a data set; None for folders and what is downloaded."""


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
        content: of what is identified by its name alone, `torch/...` and `hfds/...`, what the name stood for: see
            `content_of`; of Hugging Face's a hash of the images. Empty for others, whose fingerprint says it.
    """

    private: LabelledImages
    auxiliary: LabelledImages
    test: LabelledImages
    classes: tuple[str, ...]
    hashes: dict[str, list[str]]
    content: str = ""


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
        if name not in ("name", "arguments")
    }
    return [
        *(DatasetInfo(cls.name, inspect.getdoc(cls) or "", parameters, cls.paper) for cls in BUILT_IN.values()),
        DatasetInfo(
            "FOLDER",
            "a folder of your own: FOLDER/CLASS/*.jpg, or FOLDER/{train,test}/CLASS/*.jpg (also val, valid)",
            parameters,
        ),
        DatasetInfo("torch/NAME", f"torchvision through timm, downloaded: {', '.join(TORCH_NAMES)}", parameters),
        DatasetInfo("hfds/NAME", "Hugging Face datasets through timm, downloaded (pip install datasets)", parameters),
    ]


def fingerprint(spec: DatasetSpec, find: Find = embedded) -> str:
    """Identifies the images and the way they are divided, without decoding any.

    Args:
        spec: which images, and how many.
        find: finds data sets that draw their images; by default those of dpbench's own.

    Raises:
        DpbenchError: there is no such data set, a folder cannot be used, or there are parameters for what has none.
    """
    source = find(spec)
    if spec.arguments and (source is None or spec.name in BUILT_IN):
        raise DpbenchError(
            f"data set {spec.name}: got arguments ({', '.join(spec.arguments)}), which data sets have that are "
            "plug-ins; leave them out"
        )
    if source is not None:
        if spec.auxiliary_classes:
            which = "the embedded " if spec.name in BUILT_IN else ""
            raise DpbenchError(
                f"auxiliary_classes = {spec.auxiliary_classes}: classes for the attacker alone are taken from a folder "
                f"of class folders, torch/... or hfds/..., not from {which}{spec.name}; name another data set"
            )
        identity: Any = source.identity
    elif (kind := _kind(spec.name)) == "folder":
        identity = ["folder", ClassFolders.look_into(spec).digest()]
    else:
        identity = [kind, timm_name(spec.name), "train and test"]
    return json_hash([division.VERSION, identity, spec.model_dump(mode="json", exclude={"name", "arguments"})])[:40]


def content_of(spec: DatasetSpec, cache: Path, find: Find = embedded) -> str:
    """Identifies the files behind a name that the fingerprint takes at its word, `torch/...`; empty for all others.

    Args:
        spec: which data set.
        cache: the folder of `load_parts`; downloads lie in it.
        find: as in `fingerprint`.
    """
    return timm_sets.content(spec, cache) if find(spec) is None and _kind(spec.name) == "torch" else ""


def left_out(spec: DatasetSpec, find: Find = embedded) -> tuple[str, ...]:
    """What of a folder is not taken, or might be meant otherwise, in words; empty for other data sets."""
    folder = find(spec) is None and _kind(spec.name) == "folder"
    return ClassFolders.look_into(spec).left_out if folder else ()


def classes_of(spec: DatasetSpec, find: Find = embedded) -> tuple[tuple[str, ...], bool]:
    """Names of the task's classes in the order of the labels, as far as they are known without decoding an image.

    Returns:
        The names, empty for what is downloaded; and whether they are those of folders.
    """
    source = find(spec)
    if source is None and _kind(spec.name) == "folder":
        return division.of_the_task(spec, ClassFolders.look_into(spec).classes), True
    return (() if source is None else source.classes), False


def load_parts(
    spec: DatasetSpec,
    *,
    cache: Path,
    progress: Progress = lambda text: None,
    room: int | None = None,
    expected: str = "",
    find: Find = embedded,
) -> Parts:
    """The three parts, decoded, or taken from `cache` where they were decoded before.

    Decoding streams into the cache. Afterwards the images are tensors where all parts together fit, and otherwise
    read when they are asked for.

    Args:
        spec: which images, and how many.
        cache: a folder; it holds decoded images by fingerprint, and downloads.
        progress: shows a short text such as "decoding 512/6500".
        room: bytes that the images may take as floats; None: `dpbench.machine.memory.room` of the CPU.
        expected: what `fingerprint` gave when the run was planned; of what may change it is looked at again.
        find: as in `fingerprint`.

    Raises:
        DpbenchError: the images cannot be used: too few, unreadable, corrupt, one class only; or a folder or the code
            of a data set is not what it was.
    """
    found = fingerprint(spec, find)
    if expected and found != expected:
        raise changed(spec)
    path = cache / f"{found}.npy"
    import torch

    from dpbench.contract.images import LabelledImages
    from dpbench.data.image_file import read_images
    from dpbench.machine import memory

    files, decoded_from = content_of(spec, cache, find), path.with_suffix(".files")
    told = _text_of(decoded_from)
    # what was decoded from other files is decoded again; files that were removed since are not missed
    stored = read_images(path, spec) if not files or told in ("", files) else None
    if stored is None:

        def unchanged() -> bool:
            return fingerprint(spec, find) == found and files in ("", content_of(spec, cache, find))

        _decode(path, spec, cache, progress, find, unchanged)
        stored = read_images(path, spec)
        files, told = content_of(spec, cache, find), ""
        if stored is None:
            raise DpbenchError(f"{path} is damaged right after it was written; check the disk, or choose another cache")
    if files and told != files:
        with contextlib.suppress(Unwritable):  # a cache that can only be read
            write_atomically(decoded_from, lambda temporary: temporary.write_text(files, encoding="utf-8"))
    drawn = find(spec) is not None and spec.name not in BUILT_IN
    assert_disjoint(stored.decoded, advice=OF_A_PLUGIN if drawn else OF_DPBENCH)
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
    named = find(spec) is None and _kind(spec.name) == "hfds"
    return Parts(
        **labelled,
        classes=stored.decoded.classes,
        hashes=hashes,
        content=json_hash(hashes) if named else files or told,
    )


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def changed(spec: DatasetSpec) -> DpbenchError:
    """An error for images that are not those of before."""
    return DpbenchError(f"data changed while the run went on: {spec.name} is not what it was; run again")


def _kind(name: str) -> str:
    """`folder`, `torch` or `hfds`."""
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


def _decode(
    path: Path, spec: DatasetSpec, cache: Path, progress: Progress, find: Find, unchanged: Callable[[], bool]
) -> None:
    """Decode into `path`, image by image; what changed on the way is not kept."""
    from dpbench.data.image_file import Write, write_images

    source = find(spec)
    if source is not None:

        def fill(write: Write) -> Decoded:
            return write_drawn(spec, source, progress, write)

    else:
        if _kind(spec.name) == "folder":
            train, test, classes = ClassFolders.look_into(spec).pools(spec.image_size)
        else:
            train, test, classes = fetch_pools(spec, cache, progress)
            assert_enough(spec, train.labels, None if test is None else test.labels, len(classes))

        def fill(write: Write) -> Decoded:
            return divide(spec, train, test, classes, progress, write)

    def fill_unchanged(write: Write) -> Decoded:
        decoded = fill(write)
        if not unchanged():
            raise changed(spec)
        return decoded

    write_images(path, spec, fill_unchanged)
    path.with_suffix(".safetensors").unlink(missing_ok=True)  # where dpbench kept the same images before 0.6
