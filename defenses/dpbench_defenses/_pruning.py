"""Channels that are taken out for good, after soft masks have learned which."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpbench.contract.defense import SplitModel
from dpbench_defenses._halves import device_of
from dpbench_defenses._tuning import TrainedModel

START = 2.0
"""First score of every channel: masks begin at 0.88, where their gradient is still large."""

STEEPNESS = 10.0
"""Of the mask in its score: what a score moves in a short training is to matter."""


class Pruned(TrainedModel):
    """A split model that releases some channels alone; while it learns all of them, each times its mask.

    Args:
        split: the defense's own, as the engine hands it out: `fit` changes it.
        bottleneck: see `TrainedModel`.
        share: of the channels that are taken out, rounded down; at least one stays.
    """

    kept: Tensor
    hard: Tensor

    def __init__(self, split: SplitModel, bottleneck: int, share: float) -> None:
        super().__init__(split, bottleneck)
        channels = self.released_channels
        self.staying = channels - min(int(share * channels), channels - 1)
        self.learning = False
        with torch.device(device_of(split)):
            self.scores = nn.Parameter(torch.full((channels,), START / STEEPNESS))
            self.register_buffer("kept", torch.arange(self.staying))
            self.register_buffer("hard", torch.zeros(channels))

    def begin(self) -> None:
        """All channels are there, softly masked."""
        self.learning = True
        self.hard.zero_()

    @torch.no_grad()
    def prune(self) -> None:
        """Keep those with the highest scores; from here on masks are 0 or 1."""
        order = self.scores.argsort(descending=True, stable=True)
        self.kept.copy_(order[: self.staying].sort().values)
        self.hard.zero_()
        self.hard[self.kept] = 1

    def close(self) -> None:
        """Release what was kept, and nothing else."""
        if not self.decided:
            self.prune()
        self.learning = False

    @property
    def decided(self) -> bool:
        """Whether masks are 0 or 1: some channel stays."""
        return bool(self.hard.any())

    def mask(self) -> Tensor:
        """(C,) in [0,1]: what each channel is multiplied by while the model learns."""
        return self.hard if self.decided else (STEEPNESS * self.scores).sigmoid()

    def code(self, features: Tensor) -> Tensor:
        """The channels that stay; while it learns all, masked."""
        code = super().code(features)
        if self.learning:
            return code * self.by_channel(self.mask()).to(code.dtype)
        return code.index_select(self.released_axis, self.kept)

    def restored(self, released: Tensor) -> Tensor:
        """What was released -> what the server's half takes, zeros for the channels that are gone."""
        if not self.learning:
            shape = list(released.shape)
            shape[self.released_axis] = self.released_channels
            whole = released.new_zeros(shape)
            released = whole.index_copy(self.released_axis, self.kept, released)
        return super().restored(released)
