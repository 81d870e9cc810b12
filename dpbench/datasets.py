"""Data sets by name, divided into private, auxiliary and test images that share no image.

A name is `leaves` (embedded), a folder of class folders, or one of timm's: `torch/...`, `hfds/...`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpbench import images, leaves
from dpbench.errors import DpbenchError, unknown
from dpbench.images import Pixels
from dpbench.specs import DatasetSpec
from dpbench.specs import content_hash as json_hash
from dpbench.store import write_atomically

if TYPE_CHECKING:
    from dpbench.types import LabelledImages

VERSION = 1
"""Raise when the same images would be decoded or divided differently: it is part of the fingerprint."""

PARTS = ("private", "auxiliary", "test")
Labels = NDArray[np.int64]
Progress = Callable[[str], None]

TRAIN_FOLDER, TEST_FOLDERS = "train", ("test", "val", "valid")
TORCH_NAMES = (
    *("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist"),
    *("imagenet", "inaturalist", "places365"),
)


@dataclass(frozen=True)
class Parts:
    """Three parts that share no image. Images are (N,3,S,S) float32 in [0,1], on the CPU.

    Attributes:
        private: the defender's training images.
        auxiliary: the attacker's own images.
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


@dataclass(frozen=True)
class _Pool:
    """Images that are decoded when they are asked for. `labels` is (N,)."""

    labels: Labels
    decode: Callable[[Sequence[int]], list[Pixels]]


@dataclass(frozen=True)
class _Part:
    """Decoded images (N,3,S,S) uint8, labels (N,), and a content hash of each image."""

    pixels: Pixels
    labels: Labels
    hashes: list[str]


@dataclass(frozen=True)
class _Decoded:
    parts: dict[str, _Part]
    classes: tuple[str, ...]


def known_datasets() -> list[DatasetInfo]:
    """Every kind of data set, with the parameters of `[dataset]` in a suite."""
    parameters = {
        name: {
            "default": field.default,
            "about": field.description or "",
            "range": ", ".join(
                f"{sign} {getattr(bound, key)}"
                for bound in field.metadata
                for key, sign in (("ge", ">="), ("le", "<="))
                if hasattr(bound, key)
            ),
        }
        for name, field in DatasetSpec.model_fields.items()
        if name != "name"
    }
    return [
        DatasetInfo(
            "leaves",
            f"embedded: dead leaves with one of {len(leaves.CLASSES)} shapes in front, drawn from the seed; no download",
            parameters,
            "Lee, Mumford & Huang 2001, Occlusion models for natural images",
        ),
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
    if kind == "leaves":
        source: Any = ["leaves", leaves.VERSION]
    elif kind == "folder":
        source = ["folder", _Folder.look_into(spec).digest()]
    else:
        source = [kind, _timm_name(spec.name), "train and test"]
    return json_hash([VERSION, source, spec.model_dump(mode="json", exclude={"name"})])[:40]


def load_parts(spec: DatasetSpec, *, cache: Path, progress: Progress = lambda text: None) -> Parts:
    """The three parts, decoded, or taken from `cache` where they were decoded before.

    Args:
        spec: which images, and how many.
        cache: a folder; it holds decoded images by fingerprint, and downloads.
        progress: shows a short text such as "decoding 512/6500".

    Raises:
        DpbenchError: the images cannot be used: too few, unreadable, corrupt, one class only.
    """
    path = cache / f"{fingerprint(spec)}.safetensors"
    decoded = _read_cache(path, spec)
    if decoded is None:
        decoded = _decode(spec, cache, progress)
        _write_cache(path, decoded)
    _assert_disjoint(decoded)
    import torch

    from dpbench.types import LabelledImages

    labelled = {
        name: LabelledImages(torch.from_numpy(part.pixels).float().div_(255), torch.from_numpy(part.labels))
        for name, part in decoded.parts.items()
    }
    return Parts(
        **labelled, classes=decoded.classes, hashes={name: part.hashes for name, part in decoded.parts.items()}
    )


def _kind(name: str) -> str:
    """`leaves`, `folder`, `torch` or `hfds`."""
    if name == "leaves":
        return "leaves"
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


def _timm_name(name: str) -> str:
    """As timm reads it: the prefix in any case, the rest as it is except for torchvision's names."""
    prefix, _, rest = name.partition("/")
    if prefix.lower() != "torch":
        return f"{prefix.lower()}/{rest}"
    if rest.lower() not in TORCH_NAMES:
        raise unknown("dataset", name, [f"torch/{known}" for known in TORCH_NAMES])
    return f"torch/{rest.lower()}"


def _decode(spec: DatasetSpec, cache: Path, progress: Progress) -> _Decoded:
    kind = _kind(spec.name)
    if kind == "leaves":
        return _draw_leaves(spec, progress)
    if kind == "folder":
        folder = _Folder.look_into(spec)
        train, test, classes = folder.pools(spec.image_size)
    else:
        train, test, classes = _timm_pools(spec, cache, progress)
        _assert_enough(spec, len(train.labels), None if test is None else len(test.labels))
    return _divide(spec, train, test, classes, progress)


def _draw_leaves(spec: DatasetSpec, progress: Progress) -> _Decoded:
    progress("drawing leaves")
    parts = {}
    for number, name in enumerate(PARTS):
        first = number << 40  # so a part does not depend on the sizes of the others
        pixels, labels = leaves.draw(spec.seed, range(first, first + getattr(spec, name)), spec.image_size)
        parts[name] = _Part(pixels, labels, [images.content_hash(image) for image in pixels])
    return _Decoded(parts, tuple(leaves.CLASSES))


# ---------------------------------------------------------------------------------------------- division


def _divide(
    spec: DatasetSpec, train: _Pool, test: _Pool | None, classes: tuple[str, ...], progress: Progress
) -> _Decoded:
    """Test images first, so that more private or auxiliary images do not change them; no image twice."""
    if len(classes) < 2:
        raise DpbenchError(
            f"{spec.name} has only one class ({', '.join(classes)}); expected at least two class folders"
        )
    order = iter(_stratified(train.labels, spec.seed))
    test_order = order if test is None else iter(_stratified(test.labels, spec.seed))
    seen: set[str] = set()
    wanted = {name: getattr(spec, name) for name in ("test", "private", "auxiliary")}
    total, done = sum(wanted.values()), 0
    parts = {}
    for name, count in wanted.items():
        pool, source = (test or train, test_order) if name == "test" else (train, order)
        part = _take(
            pool, source, count, seen, lambda taken, before=done: progress(f"decoding {before + taken}/{total}")
        )
        if part is None:
            everything = len(pool.labels)
            raise DpbenchError(
                f"{spec.name} has too few different images: {everything} without duplicates are not enough for "
                f"{count} {name} images beside the other parts; lower private, auxiliary or test in [dataset]"
            )
        parts[name] = part
        done += count
    return _Decoded({name: parts[name] for name in PARTS}, classes)


def _take(
    pool: _Pool, order: Iterator[int], count: int, seen: set[str], progress: Callable[[int], None]
) -> _Part | None:
    """The next `count` images that were not seen yet; None where the pool does not hold so many."""
    pixels: list[Pixels] = []
    labels: list[int] = []
    hashes: list[str] = []
    while len(pixels) < count:
        progress(len(pixels))
        indices = list(itertools.islice(order, min(512, count - len(pixels))))
        if not indices:
            return None
        for index, image in zip(indices, pool.decode(indices), strict=True):
            digest = images.content_hash(image)
            if digest not in seen:
                seen.add(digest)
                pixels.append(image)
                labels.append(int(pool.labels[index]))
                hashes.append(digest)
    return _Part(np.stack(pixels), np.array(labels, np.int64), hashes)


def _stratified(labels: Labels, seed: int) -> list[int]:
    """All positions in random order, such that any run of them holds the classes in proportion."""
    raw = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(2 * len(labels))
    shuffled = np.argsort(raw[: len(labels)], kind="stable")
    jitter = (raw[len(labels) :] >> np.uint64(11)).astype(np.float64) * 2.0**-53
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        position[members] = (np.arange(len(members)) + jitter[members]) / len(members)
    return [int(index) for index in np.argsort(position, kind="stable")]


def _assert_enough(spec: DatasetSpec, train: int, test: int | None) -> None:
    """Counted before anything is decoded."""
    learning = spec.private + spec.auxiliary
    lower = "lower private, auxiliary or test in [dataset], or add images"
    if test is None and learning + spec.test > train:
        raise DpbenchError(
            f"{spec.name} has too few images: {train}, but private = {spec.private}, auxiliary = {spec.auxiliary} and "
            f"test = {spec.test} together need {learning + spec.test}; {lower}"
        )
    if test is not None and learning > train:
        raise DpbenchError(
            f"{spec.name} has too few training images: {train}, but private = {spec.private} and auxiliary = "
            f"{spec.auxiliary} together need {learning}; lower private or auxiliary in [dataset], or add images"
        )
    if test is not None and spec.test > test:
        raise DpbenchError(
            f"{spec.name} has too few test images: {test}, but test = {spec.test}; lower test in [dataset], "
            "or add images"
        )


def _assert_disjoint(decoded: _Decoded) -> None:
    """The contract that every figure stands on."""
    for one, other in itertools.combinations(PARTS, 2):
        shared = set(decoded.parts[one].hashes) & set(decoded.parts[other].hashes)
        if shared:
            raise DpbenchError(
                f"the {one} and {other} images share {len(shared)} images ({min(shared)}, ...); they must be disjoint. "
                "Delete the cached data set and run again; if it comes back, this is a bug in dpbench"
            )


# ---------------------------------------------------------------------------------------------- folders


@dataclass(frozen=True)
class _Folder:
    """The image files of a folder of class folders: (path below the root, label), sorted. Nothing is decoded."""

    root: Path
    classes: tuple[str, ...]
    train: list[tuple[str, int]]
    test: list[tuple[str, int]] | None

    @classmethod
    def look_into(cls, spec: DatasetSpec) -> _Folder:
        """Find the classes and their images.

        Raises:
            DpbenchError: not a folder of class folders, one class only, or too few images for the parts.
        """
        root = Path(spec.name).expanduser()
        entries = _subfolders(root)
        test_name = None
        if TRAIN_FOLDER in entries and _subfolders(root / TRAIN_FOLDER):
            test_name = next((name for name in TEST_FOLDERS if name in entries and _subfolders(root / name)), None)
            if test_name is None:
                raise DpbenchError(
                    f"{spec.name} has {TRAIN_FOLDER}/ but no test/, val/ or valid/ with class folders beside it; "
                    f"add one, or name {spec.name}/{TRAIN_FOLDER} to draw all parts from it"
                )
        train = _images_by_class(root, TRAIN_FOLDER if test_name else "")
        classes = tuple(sorted(train))
        if len(classes) < 2:
            found = f"only one class ({classes[0]})" if classes else _what_is_in(root)
            raise DpbenchError(
                f"{spec.name}: {found}; expected at least two class folders with images: "
                "FOLDER/CLASS/*.jpg or FOLDER/{train,test}/CLASS/*.jpg"
            )
        test = None
        if test_name:
            by_class = _images_by_class(root, test_name)
            if extra := sorted(set(by_class) - set(classes)):
                raise DpbenchError(
                    f"{spec.name}: class {extra[0]!r} is in {test_name}/ but not in {TRAIN_FOLDER}/; "
                    "expected the same class folders in both"
                )
            test = _flat(by_class, classes)
        folder = cls(root, classes, _flat(train, classes), test)
        _assert_enough(spec, len(folder.train), None if test is None else len(test))
        return folder

    def digest(self) -> str:
        """SHA-256 over paths below the root and file contents: moving the folder does not change it."""
        total = hashlib.sha256()
        for path, _ in [*self.train, *(self.test or [])]:
            content = _read(f"{self.root}{os.sep}{path}")
            total.update(f"{path.replace(os.sep, '/')}\0{len(content)}\0".encode("utf-8", "surrogateescape"))
            total.update(content)
        return total.hexdigest()

    def pools(self, size: int) -> tuple[_Pool, _Pool | None, tuple[str, ...]]:
        """Training and test pool, and the names of the classes."""
        return self._pool(self.train, size), None if self.test is None else self._pool(self.test, size), self.classes

    def _pool(self, files: list[tuple[str, int]], size: int) -> _Pool:
        return _Pool(
            np.array([label for _, label in files], np.int64),
            lambda indices: images.decode_files([self.root / files[index][0] for index in indices], size),
        )


def _flat(by_class: dict[str, list[str]], classes: tuple[str, ...]) -> list[tuple[str, int]]:
    return [(path, classes.index(name)) for name in sorted(by_class) for path in by_class[name]]


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise DpbenchError(f"image {path} cannot be read ({error.strerror}); make it readable") from error


def _subfolders(folder: Path) -> list[str]:
    """Names of the folders in it, hidden ones left out."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise _unreadable(error, folder) from error


def _images_by_class(root: Path, part: str) -> dict[str, list[str]]:
    """Class -> sorted paths below `root`. A class folder may have folders in it; one without images is no class."""

    def refuse(error: OSError) -> None:
        raise _unreadable(error, base) from error

    base = root / part if part else root
    found: dict[str, list[str]] = {}
    for name in _subfolders(base):
        paths = [
            os.path.relpath(folder, root) + os.sep + file
            for folder, _, files in os.walk(base / name, onerror=refuse, followlinks=True)
            for file in files
            if _is_image(file)
        ]
        if paths:
            found[name] = sorted(paths)
    return found


def _is_image(file: str) -> bool:
    return os.path.splitext(file)[1].lower() in images.ENDINGS and not file.startswith(".")


def _unreadable(error: OSError, folder: Path) -> DpbenchError:
    return DpbenchError(f"folder {error.filename or folder} cannot be read ({error.strerror}); make it readable")


def _what_is_in(root: Path) -> str:
    names = sorted(name for name in os.listdir(root) if not name.startswith("."))
    if not names:
        return "the folder is empty"
    loose = sum(_is_image(name) for name in names)
    if loose:
        return f"{loose} images lie directly in it, not in class folders"
    return f"no class folder in it holds images ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


# ---------------------------------------------------------------------------------------------- timm


def _timm_pools(spec: DatasetSpec, cache: Path, progress: Progress) -> tuple[_Pool, _Pool | None, tuple[str, ...]]:
    name = _timm_name(spec.name)
    progress(f"fetching {name}")
    if name.startswith("torch/"):
        root = cache / "downloads" / re.sub(r"[^a-z0-9_]+", "_", name)
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DpbenchError(f"{root} cannot be written ({error.strerror}); choose a writable cache") from error
        train, test = (_create(name, split, root) for split in ("train", "validation"))
    else:
        if importlib.util.find_spec("datasets") is None:
            raise DpbenchError(f"dataset {spec.name!r} needs the package datasets; run `pip install datasets`")
        train, test = _create(name, "train", None), None
        for split in ("test", "validation"):
            try:
                test = _create(name, split, None)
                break
            except _NoSuchSplitError:
                continue
    labels = _labels_of(train)
    classes = _classes_of(train, labels)
    pool = _timm_pool(train, labels, spec)
    return pool, None if test is None else _timm_pool(test, _labels_of(test), spec), classes


class _NoSuchSplitError(DpbenchError):
    """The data set has no split of that name."""


def _create(name: str, split: str, root: Path | None) -> Any:
    import timm.data

    where = None if root is None else str(root)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision unpickles arrays of older numpy
            # input_img_mode: the decoding is ours, or transparency would be lost and 16 bits clipped
            return timm.data.create_dataset(name, root=where, split=split, download=True, input_img_mode="")
    except Exception as error:  # whatever the network, the disk or a package raises
        text = " ".join(str(error).split())[:160]
        if "unknown split" in text.lower() or "bad split" in text.lower():
            raise _NoSuchSplitError(f"dataset {name!r} has no split {split!r} ({text})") from error
        by_hand = f", put its files into {root}" if root is not None else ""
        raise DpbenchError(
            f"dataset {name!r} could not be fetched ({type(error).__name__}: {text}); check the name and the "
            f"network{by_hand}, or use a folder of class folders"
        ) from error


def _labels_of(dataset: Any) -> Labels:
    """The class indices without decoding an image, where the data set keeps them apart."""
    reader = getattr(dataset, "reader", None)
    kept = next((getattr(dataset, key) for key in ("targets", "labels") if hasattr(dataset, key)), None)
    if kept is None and hasattr(reader, "iter_targets"):
        kept = list(reader.iter_targets())
    if kept is None:
        kept = [dataset[index][1] for index in range(len(dataset))]
    found = np.array([-1 if label is None else label for label in np.asarray(kept).tolist()], np.int64)
    if found.ndim == 2:  # qmnist keeps more than the class
        found = np.ascontiguousarray(found[:, 0])
    if not found.size or found.min() < 0:
        raise DpbenchError("the data set has no class label for some images; expected one for each")
    return found


def _classes_of(dataset: Any, labels: Labels) -> tuple[str, ...]:
    """Names of the classes, or their numbers."""
    by_name = getattr(getattr(dataset, "reader", None), "class_to_idx", None)
    names = getattr(dataset, "classes", None) or (sorted(by_name, key=by_name.get) if by_name else None)
    count = int(labels.max()) + 1
    if not names or len(names) < count:
        return tuple(str(index) for index in range(count))
    return tuple(name if isinstance(name, str) else ", ".join(map(str, name)) for name in names)


def _timm_pool(dataset: Any, labels: Labels, spec: DatasetSpec) -> _Pool:
    def decode_one(index: int) -> Pixels:
        try:
            return images.from_pillow(dataset[index][0], spec.image_size)
        except Exception as error:  # a damaged file may raise anything from a decoder
            raise DpbenchError(f"image {index} of {spec.name} cannot be decoded ({error}); fetch it again") from error

    return _Pool(labels, lambda indices: images.in_threads(decode_one, indices))


# ---------------------------------------------------------------------------------------------- cache


def _write_cache(path: Path, decoded: _Decoded) -> None:
    import safetensors.numpy

    arrays = {}
    for name, part in decoded.parts.items():
        arrays[f"{name}.images"], arrays[f"{name}.labels"] = part.pixels, part.labels
    about = {
        "classes": json.dumps(decoded.classes),
        "hashes": json.dumps({name: part.hashes for name, part in decoded.parts.items()}),
    }
    write_atomically(path, lambda temporary: safetensors.numpy.save_file(arrays, temporary, metadata=about))


def _read_cache(path: Path, spec: DatasetSpec) -> _Decoded | None:
    """What was decoded before; None where it is missing or damaged, so that it is made again."""
    if not path.is_file():
        return None
    import safetensors

    try:
        with safetensors.safe_open(path, framework="np") as file:
            about = file.metadata()
            hashes, classes = json.loads(about["hashes"]), tuple(json.loads(about["classes"]))
            parts = {
                name: _Part(file.get_tensor(f"{name}.images"), file.get_tensor(f"{name}.labels"), hashes[name])
                for name in PARTS
            }
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
    for name, part in parts.items():
        expected = (getattr(spec, name), 3, spec.image_size, spec.image_size)
        if part.pixels.shape != expected or part.labels.shape != expected[:1]:
            return None
        # a flipped bit would otherwise pass for an image
        if [images.content_hash(image) for image in part.pixels] != part.hashes:
            return None
    return _Decoded(parts, classes)
