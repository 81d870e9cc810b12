"""Defenses that the server undoes before its half of the network begins."""

from __future__ import annotations

import abc

from torch import Tensor

from dpbench.contract.defense import ProtectedModel


class UndoneModel(ProtectedModel, abc.ABC):
    """A model whose server turns releases into features again."""

    @abc.abstractmethod
    def undo(self, released: Tensor) -> Tensor:
        """Server side: released features (N, ...) -> features as the server's half takes them."""

    def predict(self, released: Tensor) -> Tensor:
        """Server side: undoes the defense, then goes on: (N, ...) -> (N, classes) logits."""
        logits: Tensor = self.split.server_tail(self.undo(released))
        return logits
