"""Features as entities share them: one safetensors file of features, labels and a header.

Nothing in a file is ever run. Everything in it is checked before a tensor is handed out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel
from torch import Tensor

from dpbench.errors import DpbenchError
from dpbench.exchange.feature_header import FORMAT_VERSION, Cut, FeatureHeader, Network, assert_agrees, features_digest
from dpbench.machine.writing import write_atomically
from dpbench.service.quantisation import FLOATS, INTEGERS, dequantised, expected_types

METADATA_KEY = "dpbench_features"
"""Where the header is in the metadata of the safetensors file. It is the only key."""

TENSORS = ("features", "labels")

AGAIN = "ask the sender to export and send it again"

CHECKED = 1024
"""Images whose features are checked at once: a copy of all might not fit."""


@dataclass(frozen=True)
class SharedFeatures:
    """What a file holds, checked.

    Attributes:
        header: which network the features belong to.
        features: (N, ...) finite floats or integers as they were sent, on the CPU.
        labels: (N,) int64 in [0, header.classes).
    """

    header: FeatureHeader
    features: Tensor
    labels: Tensor

    def meant(self, features: Tensor) -> Tensor:
        """Some of the features (n, ...) as floats: what their integers mean."""
        header = self.header
        if header.scale is None or header.zero_point is None:
            return features
        return dequantised(features, header.scale, header.zero_point)


def assert_new(path: Path) -> None:
    """Refuse a path where something is: a file may be all that is left of an earlier release.

    Raises:
        DpbenchError: there is something.
    """
    if path.exists() or path.is_symlink():
        raise DpbenchError(f"{path} is there already and is never overwritten; choose another file, or remove it")


def write_features(
    path: Path,
    features: Tensor,
    labels: Tensor,
    *,
    network: Network,
    defense: str,
    defense_version: int,
    quantisation: tuple[float, float] = (1.0, 0.0),
) -> FeatureHeader:
    """Write a file of features, whole or not at all.

    Args:
        path: where nothing may be yet.
        features: (N, ...) finite floats or integers, as the defense released them.
        labels: (N,) int64 in [0, network.classes).
        network: what the receiver must have too.
        defense: its name; its parameters do not belong in here.
        defense_version: its integer version.
        quantisation: scale and zero point of integers, which mean `scale * (q - zero_point)`.

    Returns:
        The header that was written.

    Raises:
        DpbenchError: the path is taken or not writable; features or labels do not match the network or each other,
            or are out of range.
    """
    assert_new(path)
    tensors = {"features": features.detach().cpu().contiguous(), "labels": labels.detach().cpu().contiguous()}
    try:
        header = FeatureHeader(
            **dict(network),
            defense=defense,
            defense_version=defense_version,
            count=len(features),
            **({} if features.is_floating_point() else _of_integers(quantisation)),
        )
    except pydantic.ValidationError as error:
        raise DpbenchError(f"{path} cannot be written: {_first(error)}") from error
    if wrong := _wrong_kind(tensors) or _inconsistency(header, tensors):
        raise DpbenchError(f"{path} cannot be written: {wrong}")
    header = header.model_copy(update={"digest": features_digest(header, tensors)})
    metadata = {METADATA_KEY: json.dumps(header.written(), separators=(",", ":"))}
    write_atomically(path, lambda temporary: safetensors.torch.save_file(tensors, temporary, metadata=metadata))
    return header


def read_features(path: Path, expected: Cut | None = None) -> SharedFeatures:
    """Read a file of features.

    Args:
        path: what `write_features` wrote, perhaps elsewhere.
        expected: the receiver's network, or as much of it as is known; see `assert_agrees`.

    Raises:
        DpbenchError: it is no such file, is cut short or altered, comes from a newer dpbench, contradicts itself, or
            belongs to another network than expected.
    """
    if not path.is_file():
        raise DpbenchError(f"there is no file {path}; expected what `dpbench share export` wrote")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except OSError as error:
        raise DpbenchError(f"{path} cannot be read ({error.strerror or error}); make it readable") from error
    except safetensors.SafetensorError as error:
        reason = str(error).splitlines()[0][:120]
        raise DpbenchError(
            f"{path} is cut short, damaged or no safetensors file ({reason}); expected what `dpbench share export` "
            f"wrote: {AGAIN}"
        ) from error
    header = _header(path, metadata)
    if set(tensors) != set(TENSORS):
        raise DpbenchError(f"{path} holds the tensors {sorted(tensors)}, expected {list(TENSORS)}; {AGAIN}")
    if wrong := _wrong_kind(tensors):
        raise DpbenchError(f"{path} contradicts itself: {wrong}; {AGAIN}")
    if features_digest(header, tensors) != header.digest:
        raise DpbenchError(f"{path} was altered or damaged: its content does not match the digest in it; {AGAIN}")
    if wrong := _inconsistency(header, tensors):
        raise DpbenchError(f"{path} contradicts itself: {wrong}; {AGAIN}")
    if expected is not None:
        assert_agrees(path, header, expected)
    return SharedFeatures(header, tensors["features"], tensors["labels"])


class _Version(BaseModel):
    format_version: int


def _header(path: Path, metadata: dict[str, Any]) -> FeatureHeader:
    text = metadata.get(METADATA_KEY)
    if text is None:
        raise DpbenchError(
            f"{path} is a safetensors file, but none of shared features: its metadata have no {METADATA_KEY!r}; "
            "expected what `dpbench share export` wrote"
        )
    try:
        version = _Version.model_validate_json(text).format_version
        if version > FORMAT_VERSION:
            raise DpbenchError(
                f"{path} has format {version}, this dpbench reads up to {FORMAT_VERSION}; upgrade dpbench, or ask "
                "the sender to export with this version"
            )
        return FeatureHeader.model_validate_json(text)
    except pydantic.ValidationError as error:
        raise DpbenchError(f"{path} has a damaged header ({_first(error)}); {AGAIN}") from error


def _first(error: pydantic.ValidationError) -> str:
    """The first thing wrong with a header, in one line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the header"
    return " ".join(f"{where!r}: {first['msg']}".split())


def _of_integers(quantisation: tuple[float, float]) -> dict[str, Any]:
    scale, zero_point = quantisation
    return {"format_version": FORMAT_VERSION, "scale": scale, "zero_point": zero_point}


def _wrong_kind(tensors: dict[str, Tensor]) -> str:
    """What is no tensor of features or labels at all; empty where both are."""
    features, labels = tensors["features"], tensors["labels"]
    if features.dtype not in (*FLOATS, *INTEGERS) or features.ndim < 2:
        return f"features are {features.dtype} {tuple(features.shape)}, expected {expected_types()} (N, ...)"
    if labels.dtype != torch.int64 or labels.ndim != 1:
        return f"labels are {labels.dtype} {tuple(labels.shape)}, expected torch.int64 (N,)"
    return ""


def _inconsistency(header: FeatureHeader, tensors: dict[str, Tensor]) -> str:
    """How tensors and header contradict each other; empty where they do not."""
    features, labels = tensors["features"], tensors["labels"]
    if len({len(features), len(labels), header.count}) > 1:
        return f"there are {len(features)} features and {len(labels)} labels, expected {header.count} of both"
    if tuple(features.shape[1:]) != header.shape:
        return f"one image has features of shape {tuple(features.shape[1:])}, expected {header.shape}"
    stated = header.scale is not None and header.zero_point is not None
    if stated == features.is_floating_point():
        meaning = "a scale and a zero point" if stated else "no scale and zero point"
        return f"features are {features.dtype}, and the header states {meaning}; expected both of integers alone"
    if int(labels.min()) < 0 or int(labels.max()) >= header.classes:
        return f"labels go from {int(labels.min())} to {int(labels.max())}, expected 0 to {header.classes - 1}"
    if not all(bool(part.isfinite().all()) for part in features.split(CHECKED)):
        return "some features are NaN or infinite, expected finite values"
    return ""
