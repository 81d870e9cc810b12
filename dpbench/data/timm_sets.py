"""Data sets by timm's names, `torch/...` and `hfds/...`, fetched through timm."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from dpbench.data import images
from dpbench.data.division import Labels, Pool, Progress
from dpbench.data.images import Pixels
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError, unknown
from dpbench.machine.writing import Unwritable, write_atomically
from dpbench.text.hashing import content_hash

TORCH_NAMES = (
    *("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist"),
    *("imagenet", "inaturalist", "places365"),
)


def timm_name(name: str) -> str:
    """As timm reads it: the prefix in any case, the rest as it is except for torchvision's names."""
    prefix, _, rest = name.partition("/")
    if prefix.lower() != "torch":
        return f"{prefix.lower()}/{rest}"
    if rest.lower() not in TORCH_NAMES:
        raise unknown("dataset", name, [f"torch/{known}" for known in TORCH_NAMES])
    return f"torch/{rest.lower()}"


def _root(name: str, cache: Path) -> Path:
    """Where the files of a torchvision data set lie."""
    return cache / "downloads" / re.sub(r"[^a-z0-9_]+", "_", name)


def content(spec: DatasetSpec, cache: Path) -> str:
    """SHA-256 over the names and the contents of what was downloaded.

    A file is read again where its size or a time of it is another than when it was read before.

    Returns:
        Hex digits; empty where nothing lies there yet, and for Hugging Face, which keeps its own cache.
    """
    name = timm_name(spec.name)
    root = _root(name, cache)
    if not name.startswith("torch/") or not root.is_dir():
        return ""
    known_path = root.with_name(f"{root.name}.files.json")
    known, found = _known(known_path), dict[str, list[Any]]()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        place, stat = path.relative_to(root).as_posix(), path.stat()
        state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        before = known.get(place, [])
        found[place] = before if before[:-1] == state else [*state, _sha256(path)]
    if not found:
        return ""
    if found != known:
        text = json.dumps(found)
        with contextlib.suppress(Unwritable):  # read again the next time
            write_atomically(known_path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return content_hash([[place, state[0], state[-1]] for place, state in sorted(found.items())])


def _known(path: Path) -> dict[str, list[Any]]:
    """What files were when they were read; nothing of what was not written so."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        whole = all(len(state) == 4 and re.fullmatch("[0-9a-f]{64}", state[3]) for state in stored.values())
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
    return stored if whole else {}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DpbenchError(f"{path} cannot be read ({error.strerror}); make it readable") from error


def fetch_pools(spec: DatasetSpec, cache: Path, progress: Progress) -> tuple[Pool, Pool | None, tuple[str, ...]]:
    """Training pool, test pool (None where the data set has no test split) and the names of the classes.

    Args:
        spec: which data set.
        cache: torchvision's downloads go below it; Hugging Face keeps its own cache.
        progress: shows a short text.

    Raises:
        DpbenchError: the name is unknown, a package is missing, or the download failed.
    """
    name = timm_name(spec.name)
    progress(f"fetching {name}")
    if name.startswith("torch/"):
        root = _root(name, cache)
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
    pools = [_pool(dataset, spec) for dataset in (train, test) if dataset is not None]
    count = 1 + max(int(pool.labels.max()) for pool in pools)
    return pools[0], pools[1] if len(pools) > 1 else None, _classes_of(train, count)


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
    reader: Any = getattr(dataset, "reader", None)
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


def _classes_of(dataset: Any, count: int) -> tuple[str, ...]:
    """Names of the classes, or their numbers."""
    by_name = getattr(getattr(dataset, "reader", None), "class_to_idx", None)
    names = getattr(dataset, "classes", None) or (sorted(by_name, key=by_name.get) if by_name else None)
    if not names or len(names) < count:
        return tuple(str(index) for index in range(count))
    return tuple(name if isinstance(name, str) else ", ".join(map(str, name)) for name in names)


def _pool(dataset: Any, spec: DatasetSpec) -> Pool:
    def decode_one(index: int) -> Pixels:
        try:
            return images.from_pillow(dataset[index][0], spec.image_size)
        except Exception as error:  # a damaged file may raise anything from a decoder
            raise DpbenchError(f"image {index} of {spec.name} cannot be decoded ({error}); fetch it again") from error

    return Pool(_labels_of(dataset), lambda indices: images.in_threads(decode_one, indices))
