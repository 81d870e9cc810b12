"""The floor that shows every victim some other natural picture."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dpbench.contract.attack import Attack, Observation
from dpbench.contract.threat import Needs
from dpbench.plugins.registry import register


@register
class RandomImage(Attack):
    """A random auxiliary image for each victim, without repetition while there are enough of them.

    Sharp and natural where the mean image is grey, so it is the floor for perceptual measures.
    """

    name: ClassVar[str] = "random-image"
    needs: ClassVar[Needs] = "nothing"
    floor: ClassVar[bool] = True
    blind: ClassVar[bool] = True

    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """N auxiliary images, (N,3,H,W) in [0,1]."""
        victims, pool = len(seen.released), len(seen.auxiliary)
        rounds = -(-victims // pool)
        order = torch.cat([torch.randperm(pool, generator=generator, device=generator.device) for _ in range(rounds)])
        chosen = order[:victims].to(seen.auxiliary.images.device)
        return seen.auxiliary.images[chosen].to(device=seen.released.device, dtype=torch.float32)
