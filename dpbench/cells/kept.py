"""What was made last is kept in memory while the cells that use it follow each other, fitted as memory allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from dpbench.machine.memory import Batches, auto_batch_size
from dpbench.suite.cell import CellSpec
from dpbench.text.hashing import content_hash

T = TypeVar("T")


class Kept:
    """One thing for each slot, and the batch that each network was fitted with.

    Args:
        device: whose memory says how many images go through a network at once.
        batch_size: at most so many; None: `auto_batch_size`.
    """

    def __init__(self, device: torch.device, batch_size: int | None = None) -> None:
        self.device = device
        self.batch_size = batch_size
        self.batches = Batches(batch_size or 1)
        self._kept: dict[str, tuple[str, Any]] = {}
        self._fitted_with: dict[str, int] = {}

    def keep(self, slot: str, key: str, make: Callable[[], Any]) -> Any:
        """The last thing made for a slot, while its key stays the same."""
        if slot not in self._kept or self._kept[slot][0] != key:
            self._kept.pop(slot, None)  # frees the old one first
            self._kept[slot] = (key, make())
        return self._kept[slot][1]

    def forget(self) -> None:
        """Nothing that was kept is used again."""
        self._kept.clear()

    def start(self, cell: CellSpec) -> None:
        """A cell begins, with as many images at once as were asked for: what another ran out of is none of its own."""
        self.batches = Batches(self.batch_size or auto_batch_size(cell.dataset.image_size, self.device))

    def _key(self, about: dict[str, Any], most: int) -> str:
        """Content hash of a network, and of the batch it was fitted with where that is less than its recipe's `most`.

        What the memory allows beyond the recipe changes nothing, so it stays out.
        """
        size = self._fitted_with.get(content_hash(about), self.batches.batch_size)
        return content_hash({**about, "batch_size": size} if size < most else about)

    def _fitted(self, about: dict[str, Any], most: int, fit: Callable[[str, int], T]) -> T:
        """`fit(key, batch_size)`, again with half the batch whenever memory runs out; later cells know what fits."""
        name = content_hash(about)
        known = self._fitted_with.get(name)

        def attempt(size: int) -> T:
            self._fitted_with[name] = min(size, known or size)
            return fit(self._key(about, most), self._fitted_with[name])

        return self.batches(attempt)

    def _keep_fitted(self, slot: str, about: dict[str, Any], most: int, fit: Callable[[str, int], T]) -> T:
        """`_fitted`, or what it was the last time; either way the cell's batches say how it was fitted."""
        name = content_hash(about)
        kept: T = self.keep(slot, name, lambda: self._fitted(about, most, fit))
        self.batches.smallest = min(self.batches.smallest, self._fitted_with[name])
        return kept
