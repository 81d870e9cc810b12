"""Which photograph is it? Victims named among candidates by their releases alone, without reconstructing anything.

Whoever may ask the client holds candidate images, releases each through it, and takes the one whose release is nearest
to the victim's. A release that shows no picture may still name one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from dpbench.contract.images import Images
from dpbench.service.same_release import differ

CANDIDATES, FEWEST = 2000, 500
"""Images that the attacker holds, the victims' among them: of up to `SIDE` pixels, and of large ones, at most."""

SIDE = 64
"""Pixels of a side, beyond which fewer candidates are released, so that it takes as long."""

DRAWS = 4
"""Releases of each candidate that are averaged where the client draws anew for each."""

AT_ONCE = 256
"""Candidates whose releases are held at once, of features of usual size."""

VALUES = 1 << 24
"""Values of such releases, at most."""

REFERENCE = 256
"""Candidates from whose releases the units of the values are taken, at most."""

LITTLE = 0.01
"""Of the variance over candidates, so much counts where noise says nothing of a value's unit."""

TIE = 1e-6
"""Squared distances this close, as a share of the largest, are the same: rounding names nobody."""


class Link(BaseModel):
    """How well releases alone name the victims among candidates."""

    model_config = ConfigDict(extra="forbid")

    rank: list[int] = Field(description="per victim: how many other candidates are at least as near (0: it is named)")
    candidates: int = Field(description="images that were compared; chance of rank 0 is one in so many")


Query = Callable[[Tensor], Tensor]


def candidates_of(side: int) -> int:
    """How many images of so many pixels a side are compared, at most."""
    return min(CANDIDATES, max(FEWEST, CANDIDATES * SIDE**2 // side**2))


@torch.no_grad()
def link_ranks(released: Tensor, candidates: Sequence[Images], query: Query, *, draws: int = DRAWS) -> list[int] | None:
    """How many other candidates are at least as near as the victim's own image; 0 is named.

    Distances are Euclidean, each value in units of what its noise spreads, or where there is none of its spread over
    candidates; what is noise in the mean of a candidate's releases is shrunk away. Ties count against the attacker.

    Args:
        released: (V, ...) the victims' features; of several releases their mean.
        candidates: M images (3,H,W) in [0,1] in one part or several, which may be empty but for the first; its first V
            are the victims'.
        query: images -> releases, with fresh randomness at each call.
        draws: of each candidate, where releases are stochastic.

    Returns:
        One for each victim, in 0..M-1; None where the client that is asked releases something of another shape.
    """
    first, noise, stochastic = _studied(candidates[0][:REFERENCE].to(released.device), query, draws)
    if first.shape[1:] != released.shape[1:]:
        return None
    drawn = draws if stochastic else 1
    centre, unit, kept = _scale(first, noise, drawn)
    victims = ((released.float() - centre) / unit).flatten(1)
    at_once = max(1, min(AT_ONCE, VALUES // max(1, released[0].numel())))
    parts = []
    for images in (images for part in candidates if len(part) for images in part.split(at_once)):
        batch = images.to(released.device)
        codes = torch.stack([query(batch).float() for _ in range(drawn)]).mean(0)
        parts.append(_squared(victims, (kept * (codes - centre) / unit).flatten(1)))
    squared = torch.cat(parts, dim=1)
    own = squared.diagonal()[:, None]
    # "not farther" rather than "nearer": a NaN then counts against the attacker
    near = ~(squared > own + TIE * squared.amax(dim=1, keepdim=True))
    return [max(0, count - 1) for count in near.sum(dim=1).tolist()]


def _studied(images: Tensor, query: Query, draws: int) -> tuple[Tensor, Tensor, bool]:
    """Releases of some candidates (n, ...), the variance of their noise (...), and whether there is any."""
    taken = [query(images).float() for _ in range(2)]
    if not differ(*taken):
        return taken[0], torch.zeros_like(taken[0][0]), False
    taken += [query(images).float() for _ in range(draws - 2)]
    together = torch.stack(taken)
    return together.mean(0), together.var(dim=0).mean(dim=0), True


def _scale(codes: Tensor, noise: Tensor, drawn: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and unit of each value, and the part of its differences between candidates that is no noise.

    A value that tells no two candidates apart has no unit.

    Args:
        codes: (n, ...) means of as many releases as are taken of each candidate.
        noise: (...) variance of a single release.
        drawn: releases of each candidate.
    """
    variance = codes.var(dim=0, correction=0)
    signal = (variance - noise / drawn).clamp_min(0)
    kept = torch.where(variance > 0, signal / variance, 0)
    unit = (noise + (1 - kept) * signal + LITTLE * variance).sqrt()
    return codes.mean(0), torch.where(variance > 0, unit, torch.inf), kept


def _squared(one: Tensor, two: Tensor) -> Tensor:
    """Squared distances (N, M) between rows."""
    squares = one.square().sum(1)[:, None] + two.square().sum(1)[None]
    return squares - 2 * one @ two.T
