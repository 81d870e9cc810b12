"""A client that draws from a few noise tensors: find them, subtract the likeliest, decode."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dpbench.contract.attack import Observation

from .decoder_plain import decoder_plain


def mixture_plain(seen: Observation, *, generator: torch.Generator, repeats: int = 96, epochs: int = 50) -> Tensor:
    """Ask for one image many times, take the releases that differ as its components: (N,3,H,W) in [0,1].

    After Mireshghallah et al. 2020, "Shredder", whose noise tensors are few: what all releases of an image have in
    common is the image, what tells them apart the noise. Each victim's is the one that leaves it most like the mean
    of auxiliary releases. Chosen here: the grey image is asked for; releases nearer than half of the usual
    distance are one component; the decoder is `decoder_plain`, which learns from releases that were undone so.
    """
    query, images = seen.granted_query(), seen.auxiliary.images
    rows = query(torch.full((repeats, *seen.image_shape), 0.5)).float()
    distances = torch.cdist(rows.flatten(1), rows.flatten(1))
    first = (distances < 0.5 * distances.median()).float().argmax(1)
    noises = torch.stack([rows[first == leader].mean(0) for leader in first.unique()])
    noises = noises - noises.mean(0)
    mean = torch.cat([query(batch).float() for batch in images.split(256)]).mean(0)

    def undone(released: Tensor) -> Tensor:
        candidates = released.float()[:, None] - noises
        best = (candidates - mean).square().flatten(2).sum(2).argmin(1)
        return candidates[torch.arange(len(released)), best]

    clean = replace(seen, released=undone(seen.released), query=lambda some: undone(query(some)))
    return decoder_plain(clean, generator=generator, epochs=epochs)
