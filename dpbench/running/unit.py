"""One part of a suite, as the engine sees it, and what of it may be shared as features."""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from dpbench.cells.prepare import Prepared
from dpbench.suite.cell import CellSpec

Progress = Callable[[str], None]


class Unit(typing.Protocol):
    """One part of a suite, with a record of its own: a cell, a training, an attack."""

    @property
    def id(self) -> str:
        """Readable, file-safe, with a hash of everything that affects the result."""

    @property
    def identity(self) -> str:
        """The hash at the end of the id. No plug-in is imported for it."""

    @property
    def version_free_id(self) -> str:
        """As `identity`, without the versions of its plug-ins and their files: equal before and after they change."""


U = TypeVar("U", bound=Unit)


@dataclass(frozen=True)
class Shareable:
    """Private images behind one defense, whose released features may be written to a file.

    Attributes:
        name: in words.
        cell: backbone, split point, defense and seed.
        prepare: a device and a cache folder -> what loads the images and fits the networks.
    """

    name: str
    cell: CellSpec
    prepare: Callable[[torch.device, Path], Prepared]
