"""The floor that shows every victim the same picture: the mean auxiliary image."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dpbench.contract.attack import Attack, Observation
from dpbench.contract.threat import Needs
from dpbench.machine.memory import optimised_at_once
from dpbench.plugins.registry import register


@register
class MeanImage(Attack):
    """The mean of the auxiliary images, for every victim.

    The best constant guess under squared error, so its fidelity is what "nothing was learnt" looks like.
    """

    name: ClassVar[str] = "mean-image"
    needs: ClassVar[Needs] = "nothing"
    floor: ClassVar[bool] = True
    blind: ClassVar[bool] = True

    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """N times the mean auxiliary image, (N,3,H,W) in [0,1]."""
        device, count = seen.released.device, len(seen.auxiliary)
        mean = torch.zeros(seen.image_shape, device=device)
        for images in seen.auxiliary.images.split(16 * optimised_at_once(seen.image_shape)):
            mean += images.mean(0, dtype=torch.float32).to(device) * (len(images) / count)
        return mean.clamp(0, 1).expand(len(seen.released), *seen.image_shape).clone()
