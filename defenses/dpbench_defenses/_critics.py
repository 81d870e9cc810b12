"""Reconstructors that learn beside a defense; a fresh attacker judges it, never one of these."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dpbench.metrics.fidelity import ssim_unchecked
from dpbench.models.training import precision
from dpbench_defenses._dpm_training import frozen, new_reconstructor
from dpbench_defenses._tuning import TrainedModel

SIZES = ((48, 1), (64, 2), (32, 3))
"""Channels and residual blocks of the critics, in turn."""

LEARNING_RATE = 2e-3

STRUCTURE = 0.2
"""Weight of 1 - SSIM beside the squared error in what critics learn."""


class Critics:
    """Reconstructors, of which one at a time is the opponent.

    Args:
        model: what they read, on its device.
        count: how many.
        generator: draws their first weights.
        structural: whether they learn SSIM too, or the squared error alone.
    """

    def __init__(self, model: TrainedModel, count: int, *, generator: torch.Generator, structural: bool = True) -> None:
        self.structural = structural
        self.steps = 0
        shapes = model.released_shape, model.split.image_shape
        sizes = [SIZES[index % len(SIZES)] for index in range(count)]
        self.pool = [new_reconstructor(*shapes, size, LEARNING_RATE, generator) for size in sizes]

    def learn(self, released: Tensor, images: Tensor) -> None:
        """One training step of each reconstructor, on releases (n, ...) of images (n,3,H,W)."""
        for network, optimizer in self.pool:
            with torch.enable_grad(), precision(images):
                guess = network(released.detach())
            error = F.mse_loss(guess, images)
            if self.structural:
                error = error + STRUCTURE * (1 - ssim_unchecked(guess, images).mean())
            optimizer.zero_grad()
            error.backward()
            optimizer.step()

    def guess(self, released: Tensor, images: Tensor) -> Tensor:
        """What the opponent of this step makes of releases, (n,3,H,W) in [0,1], differentiable in `released`."""
        opponent = self.pool[self.steps % len(self.pool)][0]
        self.steps += 1
        with frozen(opponent), precision(images):
            guess: Tensor = opponent(released)
        return guess
