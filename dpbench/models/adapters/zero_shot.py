"""Classes given as embeddings in the space of an encoder, such as those of a text tower: nothing is fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpbench.data.array_file import read_arrays
from dpbench.errors import DpbenchError

SCALE = 100.0
"""CLIP's factor from cosines to logits, at the end of its training."""

EXPECTED = "a safetensors or .npz file of one array (classes, width) in the order of the classes, or one for each class"


class ZeroShot(nn.Module):
    """Cosines with the embeddings of the classes, times 100. Radford et al. 2021, section 3.1.

    Args:
        classes: (C,D).
    """

    classes: Tensor

    def __init__(self, classes: Tensor) -> None:
        super().__init__()
        self.register_buffer("classes", F.normalize(classes.float(), dim=1))

    def forward(self, features: Tensor) -> Tensor:
        """(N,D) -> logits (N,C)."""
        return SCALE * F.normalize(features, dim=1) @ self.classes.T


def read_class_embeddings(path: Path, names: Sequence[str]) -> Tensor:
    """The embeddings (C,D) of classes, in the order of their names.

    Args:
        path: a safetensors or .npz file: one array (C,D) in that order, or one for each class under its name, (D,) or
            of several prompts (P,D), whose directions are averaged.
        names: of the classes.

    Raises:
        DpbenchError: there is no such file, it is damaged, or it is of other classes.
    """
    arrays = _read(path)
    if set(names) <= arrays.keys():
        rows = [F.normalize(arrays[name].double().reshape(-1, arrays[name].shape[-1]), dim=1).mean(0) for name in names]
        if len({row.shape for row in rows}) > 1:
            raise DpbenchError(f"class embeddings {path} are of several widths; expected {EXPECTED}")
        return torch.stack(rows).float()
    if len(arrays) != 1:
        missing = next(name for name in names if name not in arrays)
        raise DpbenchError(f"class embeddings {path} have none for the class {missing!r}; expected {EXPECTED}")
    (only,) = arrays.values()
    if only.ndim != 2 or len(only) != len(names):
        raise DpbenchError(
            f"class embeddings {path} have the shape {tuple(only.shape)}, and the data has {len(names)} classes; "
            f"expected {EXPECTED}"
        )
    return only.float()


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise DpbenchError(f"there is no file {path} of class embeddings; expected {EXPECTED}")
    try:
        arrays, _ = read_arrays(path)
    except ValueError as error:
        raise DpbenchError(
            f"class embeddings {path} are damaged or of another kind ({error}); expected {EXPECTED}"
        ) from error
    if not arrays or not all(map(_are_vectors, arrays.values())):
        raise DpbenchError(f"class embeddings {path} are not finite vectors; expected {EXPECTED}")
    return arrays


def _are_vectors(array: Tensor) -> bool:
    """Whether it is one vector or several, of finite real numbers."""
    whole = array.ndim in (1, 2) and array.numel() > 0 and not array.is_complex()
    return whole and bool(array.double().isfinite().all())
