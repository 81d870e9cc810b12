"""A client that turns its channels in secret, and nobody to ask: align moments, decode."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dpbench.contract.attack import Observation

from .decoder_plain import decoder_plain


def rotation_plain(seen: Observation, *, generator: torch.Generator, epochs: int = 50) -> Tensor:
    """Turn the victims' releases until their moments are those of undefended features: (N,3,H,W) in [0,1].

    After Liu, Giannella & Kargupta 2006, "An attacker's view of distance preserving maps for privacy preserving data
    mining", whose attacker knows a sample of the same distribution: principal axes are matched in the order of their
    variance. Chosen here: they point where their third moments agree, in place of a test of equal distributions for
    every choice of signs; positions are samples of their own; the decoder is `decoder_plain`, which learns from
    undefended features (`seen.query`).
    """
    query, images = seen.granted_query(), seen.auxiliary.images
    known = torch.cat([query(batch).float() for batch in images.split(256)]).permute(0, 2, 3, 1)
    turned = seen.released.float().permute(0, 2, 3, 1)
    (mean, axes, skewness), (known_mean, known_axes, known_skewness) = moments(turned), moments(known)
    signs = torch.where(skewness * known_skewness < 0, -1.0, 1.0)
    released = (turned - mean) @ axes @ torch.diag(signs) @ known_axes.T + known_mean
    clean = replace(seen, released=released.permute(0, 3, 1, 2).contiguous())
    return decoder_plain(clean, generator=generator, epochs=epochs)


def moments(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), principal axes (C,C) by rising variance, and third moments along them (C,), of rows (..., C)."""
    rows = rows.flatten(0, -2)
    mean = rows.mean(0)
    centred = rows - mean
    axes = torch.linalg.eigh((centred.T @ centred / len(centred)).double()).eigenvectors.float()
    return mean, axes, ((centred @ axes) ** 3).mean(0)
