"""Mix: several images of a class share one release, the mean of their features."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from dpbench.contract.defense import Defense, ProtectedModel, SplitModel
from dpbench.plugins.registry import register


@register
class Mix(Defense):
    """Features of `images_per_release` images of a class are shared as one: their mean.

    After the averaging of inputs in mixup (Zhang et al. 2018, arXiv 1710.09412); here of features, within a class, so
    that the label stays what it is, and without random weights. For the protocol `sharing` alone: a server that answers
    for one image has no use for the mean of several. Groups are drawn once; each of a group's images is given its mean,
    and counts in the partner's training. What is left over of a class joins its last group.
    """

    name: ClassVar[str] = "mix"
    version: ClassVar[int] = 1
    only_in: ClassVar[str] = "sharing"

    images_per_release: int = Field(2, ge=2, le=1024, description="images of a class whose features are averaged")

    def build(self, split: SplitModel) -> ProtectedModel:
        """The undefended client: the protocol averages what it releases."""
        return ProtectedModel(split)
