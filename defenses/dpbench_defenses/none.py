"""The undefended reference."""

from __future__ import annotations

from typing import ClassVar

from dpbench.contract.defense import Defense, ProtectedModel, SplitModel
from dpbench.plugins.registry import register


@register
class NoDefense(Defense):
    """Releases the features as they are: what every accuracy drop and leakage is measured against."""

    name: ClassVar[str] = "none"
    version: ClassVar[int] = 1

    def build(self, split: SplitModel) -> ProtectedModel:
        """The split model itself; features of any shape."""
        return ProtectedModel(split)
