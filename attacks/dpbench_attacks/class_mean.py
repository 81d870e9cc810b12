"""The floor that reads the victim's class and shows the mean image of that class."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from dpbench.contract.attack import Attack, Observation
from dpbench.contract.threat import Needs
from dpbench.plugins.registry import register
from dpbench.toolkit.inversion import channel_statistics

CHUNK = 256
"""Auxiliary images whose features are held at once, beside one mean per class."""


@register
class ClassMean(Attack):
    """The mean auxiliary image of the class whose mean released features are nearest to the victim's.

    Retrieves rather than reconstructs: it tells at most the class, which the features are there to tell, and shows
    what such images look like. So it sets the zero of the scale: whoever is no closer has shown the class, not the
    image. Nearest centroid, Euclidean, channels in units of their std; several releases of a victim are averaged.
    Where the attacker's images show other classes than the victims' (`auxiliary_classes`), it is the nearest of those.
    """

    name: ClassVar[str] = "class-mean"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = "query"
    floor: ClassVar[bool] = True

    @torch.no_grad()
    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """N mean images, (N,3,H,W) in [0,1]."""
        query, device = seen.granted_query(), seen.released.device
        released = torch.stack((seen.released, *seen.again)).float().mean(0)
        _, labels, counts = seen.auxiliary.labels.to(device).unique(return_inverse=True, return_counts=True)
        centroids = torch.zeros(len(counts), released[0].numel(), device=device)
        means = torch.zeros(len(counts), seen.auxiliary.images[0].numel(), device=device)
        std: Tensor | None = None
        for start in range(0, len(seen.auxiliary), CHUNK):
            chunk = slice(start, start + CHUNK)
            images = seen.auxiliary.images[chunk].to(device, torch.float32)
            features = query(images).float()
            # sums as matrix products: scattered additions are not deterministic on CUDA
            shares = functional.one_hot(labels[chunk], len(counts)).float() / counts
            if std is None:  # the first images say enough, and one pass needs no memory for all features
                _, std = channel_statistics(features)
            centroids += shares.T @ (features / std).flatten(1)
            means += shares.T @ images.flatten(1)
        assert std is not None  # a data set has at least one auxiliary image
        found = torch.cat(
            [torch.cdist((victims / std).flatten(1), centroids).argmin(1) for victims in released.split(CHUNK)]
        )
        return means[found].view(-1, *seen.image_shape).clamp(0, 1)
