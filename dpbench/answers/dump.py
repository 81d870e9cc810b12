"""Features that were dumped from a device: a file of them, and the images that they belong to."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dpbench.data.array_file import read_arrays
from dpbench.data.images import decode_files, find_images
from dpbench.errors import DpbenchError
from dpbench.service.quantisation import EXACT, FLOATS, INTEGERS, expected_types, scaled
from dpbench.service.release import release_bits

FEATURES, SCALE, ZERO_POINT, NAMES = "features", "scale", "zero_point", "names"

EXPECTED = (
    "a safetensors or .npz file of one array `features` (N, ...), of integers with `scale` and `zero_point` (in the "
    "file or as options)"
)

CHECKED = 256
"""Images whose features are looked at at once."""


@dataclass(frozen=True)
class Dump:
    """Features as a device sent them.

    Attributes:
        features: (N, ...) float32, of integers what they mean.
        dtype: in which they were sent.
        bits: of one image's features at a fixed length per value.
        names: of the image files, below their folder, in the order of the features; empty where the file does not say.
    """

    features: Tensor
    dtype: torch.dtype
    bits: int
    names: tuple[str, ...] = ()


def read_dump(path: Path, *, scale: float | None = None, zero_point: float | None = None) -> Dump:
    """Read a file of features.

    Args:
        path: safetensors or .npz: `features` (N, ...); `scale` and `zero_point` of integers, a number each or one for
            each channel, which is the first axis of an image's features or else the last; in the metadata of
            safetensors, `names` may hold a JSON list of the names of the images.
        scale: of integers that mean scale * (q - zero_point), where the file does not say.
        zero_point: likewise.

    Raises:
        DpbenchError: no such file, a damaged one, other arrays or types, integers that nothing says the meaning of.
    """
    arrays, metadata = _read(path)
    if FEATURES not in arrays and len(arrays) == 1:
        arrays = {FEATURES: next(iter(arrays.values()))}
    features = arrays.get(FEATURES)
    if features is None or set(arrays) - {FEATURES, SCALE, ZERO_POINT}:
        raise DpbenchError(f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}; expected {EXPECTED}")
    if features.dtype not in (*FLOATS, *INTEGERS) or features.ndim < 2 or not features.numel():
        raise DpbenchError(
            f"{path}: features are {features.dtype} {tuple(features.shape)}; expected {expected_types()} (N, ...)"
        )
    given = {SCALE: scale, ZERO_POINT: zero_point}
    for name, value in given.items():
        if name in arrays and value is not None:
            raise DpbenchError(f"{path} states its {name} itself; leave the option out")
    stated = {name: arrays.get(name, None if value is None else torch.tensor(value)) for name, value in given.items()}
    bits = release_bits(features)
    if features.is_floating_point():
        if any(value is not None for value in stated.values()):
            raise DpbenchError(
                f"{path}: features are {features.dtype}, and a scale and a zero point are of integers alone"
            )
        if not all(bool(part.isfinite().all()) for part in features.split(CHECKED)):
            raise DpbenchError(f"{path}: some features are NaN or infinite; expected finite values")
        return Dump(features.float(), features.dtype, bits, _names(path, metadata, len(features)))
    step, zero = stated[SCALE], stated[ZERO_POINT]
    if features.dtype != torch.bool and step is None:
        raise DpbenchError(
            f"{path}: features are {features.dtype}, and nothing says what they mean; give a scale and a zero point"
        )
    step = _by_channel(path, SCALE, torch.tensor(1.0) if step is None else step, features)
    zero = _by_channel(path, ZERO_POINT, torch.tensor(0.0) if zero is None else zero, features)
    if not (bool(step.isfinite().all()) and bool((step > 0).all()) and bool(zero.isfinite().all())):
        raise DpbenchError(
            f"{path}: scale {_shown(step)} and zero point {_shown(zero)}; expected finite numbers and a scale above 0"
        )
    meant = scaled(
        features,
        step,
        zero,
        lambda furthest: DpbenchError(
            f"{path}: some integers are {furthest:.0f} steps from their zero point; expected at most {EXACT}, "
            "which is what float32 tells apart"
        ),
    )
    return Dump(meant, features.dtype, bits, _names(path, metadata, len(features)))


def _by_channel(path: Path, name: str, value: Tensor, features: Tensor) -> Tensor:
    """A number, or one for each channel, so that it goes with features (N, ...)."""
    shape = features.shape
    if value.numel() == 1:
        return value.double().reshape(())
    if value.ndim == 1 and len(value) == shape[1]:
        return value.double().reshape(-1, *(1 for _ in shape[2:]))
    if value.ndim == 1 and len(value) == shape[-1]:
        return value.double()
    raise DpbenchError(
        f"{path}: {name} has the shape {tuple(value.shape)}, and features {tuple(shape)}; expected one number, or one "
        f"for each of {' or '.join(dict.fromkeys(map(str, (shape[1], shape[-1]))))} channels"
    )


def _shown(value: Tensor) -> str:
    return f"{float(value):g}" if not value.ndim else f"{float(value.min()):g} to {float(value.max()):g}"


def images_for(dump: Dump, folder: Path, size: int, *, path: Path) -> Tensor:
    """The images (N,3,size,size) in [0,1] that features belong to.

    Args:
        dump: of `path`.
        folder: of image files, of any depth: in the order of their paths, or of the names that the dump states.
        size: side in pixels; images are resized and cropped.
        path: of the dump, for messages.

    Raises:
        DpbenchError: another number of images than of features, or names that are not there.
    """
    if not folder.is_dir():
        raise DpbenchError(f"there is no folder {folder} of images")
    found = [os.path.relpath(name, ".") for name in find_images(str(folder), ".").paths]
    order = list(dump.names) or found
    if missing := sorted(set(order) - set(found)):
        raise DpbenchError(f"{path} names the image {missing[0]!r}, which is not in {folder}")
    if len(order) != len(dump.features):
        raise DpbenchError(
            f"{path} holds the features of {len(dump.features)} images, and {folder} has {len(order)}; expected one "
            "image for each, in the order of their paths"
        )
    pixels = np.stack(list(decode_files([folder / name for name in order], size)))
    return torch.from_numpy(pixels).float() / 255


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise DpbenchError(f"there is no file {path}; expected {EXPECTED}")
    try:
        return read_arrays(path)
    except ValueError as error:
        raise DpbenchError(f"{path} is cut short, damaged or of another kind ({error}); expected {EXPECTED}") from error


def _names(path: Path, metadata: dict[str, str], count: int) -> tuple[str, ...]:
    if NAMES not in metadata:
        return ()
    try:
        names = json.loads(metadata[NAMES])
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DpbenchError(f"{path}: the metadata {NAMES!r} are no JSON list of names")
    if len(set(names)) != count or len(names) != count:
        raise DpbenchError(f"{path} names {len(set(names))} different images, and holds the features of {count}")
    return tuple(os.path.normpath(name) for name in names)
