"""The floor that looks up, among its own images, the one whose features are nearest."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dpbench.contract.attack import Attack, Observation
from dpbench.contract.threat import Needs
from dpbench.plugins.registry import register
from dpbench.toolkit.inversion import channel_statistics

CHUNK = 256
"""Images whose features are held at once, of either side."""


@register
class NearestAuxiliary(Attack):
    """For each victim the auxiliary image with the nearest released features.

    Retrieves rather than reconstructs: what comes back is some other image, however much it looks like the victim. So
    it sets the zero of the scale: a reconstruction that is no closer shows nothing that a look-up would not. Distances
    are Euclidean, channels in units of their std; several releases of a victim are averaged.
    """

    name: ClassVar[str] = "nearest-auxiliary"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = "query"
    floor: ClassVar[bool] = True

    @torch.no_grad()
    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """N auxiliary images, (N,3,H,W) in [0,1]."""
        query, device = seen.granted_query(), seen.released.device
        released = torch.stack((seen.released, *seen.again)).float().mean(0)
        nearest = torch.full((len(released),), torch.inf, device=device)
        found = torch.zeros(len(released), dtype=torch.int64, device=device)
        std: Tensor | None = None
        for start in range(0, len(seen.auxiliary), CHUNK):
            features = query(seen.auxiliary.images[start : start + CHUNK].to(device)).float()
            if std is None:  # the first images say enough, and one pass needs no memory for all features
                _, std = channel_statistics(features)
            features = (features / std).flatten(1)
            for first in range(0, len(released), CHUNK):
                victims = slice(first, first + CHUNK)
                distance, index = torch.cdist((released[victims] / std).flatten(1), features).min(1)
                nearer = distance < nearest[victims]
                nearest[victims] = torch.where(nearer, distance, nearest[victims])
                found[victims] = torch.where(nearer, start + index, found[victims])
        return seen.auxiliary.images[found.to(seen.auxiliary.images.device)].to(device, torch.float32)
