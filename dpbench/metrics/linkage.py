"""Which photograph is it? Victims named among candidates by their releases alone, without reconstructing anything.

Whoever may ask the client holds candidate images, releases each through it, and takes the one whose release is nearest
to the victim's. A release that shows no picture may still name one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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

NEAREST = 16
"""Releases of each candidate, where the nearest of them counts."""

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

Way = Callable[[Tensor], Tensor]
"""Releases (n, ...) -> what of them is compared, (n, ...)."""


def candidates_of(side: int) -> int:
    """How many images of so many pixels a side are compared, at most."""
    return min(CANDIDATES, max(FEWEST, CANDIDATES * SIDE**2 // side**2))


@torch.no_grad()
def link_ranks(
    released: Sequence[Tensor], candidates: Sequence[Images], query: Query, *, draws: int = DRAWS
) -> list[int] | None:
    """How many other candidates are at least as near as the victim's own image; 0 is named.

    Distances are Euclidean, each value in units of what its noise spreads, or where there is none of its spread over
    candidates; what is noise in the mean of a candidate's releases is shrunk away. Ties count against the attacker.
    Where the client draws anew for each release and such means do not name all, the attacker tries on candidates what
    names more of them: values in any order, along each side of a release (positions may be shuffled), or the nearest
    of `NEAREST` releases of each (noise may be one of a few).

    Args:
        released: (V, ...) the victims' features, one or several releases of them.
        candidates: M images (3,H,W) in [0,1] in one part or several, which may be empty but for the first; its first V
            are the victims'.
        query: images -> releases, with fresh randomness at each call.
        draws: of each candidate, where releases are stochastic.

    Returns:
        One for each victim, in 0..M-1; None where the client that is asked releases something of another shape.
    """
    some = candidates[0][:REFERENCE].to(released[0].device)
    asked = [query(some).float() for _ in range(2)]
    if asked[0].shape[1:] != released[0].shape[1:]:
        return None
    if not differ(*asked):
        return _Comparison(query, _as_sent, asked[:1]).ranks(released, candidates)
    asked += [query(some).float() for _ in range(draws - 2)]
    return _best(query, asked, some).ranks(released, candidates)


def _as_sent(releases: Tensor) -> Tensor:
    return releases


def _any_place(releases: Tensor) -> Tensor:
    """(n, C, ...): the values of each channel by size, wherever they are."""
    return releases.flatten(2).sort(dim=2).values


def _any_token(releases: Tensor) -> Tensor:
    """(n, ..., D): the values of each feature by size, whichever token they are of."""
    return releases.flatten(1, -2).sort(dim=1).values


def _any_value(releases: Tensor) -> Tensor:
    """All values by size."""
    return releases.flatten(1).sort(dim=1).values


class _Comparison:
    """One way to compare releases with those of candidates.

    Args:
        query: as for `link_ranks`.
        way: what of a release is compared.
        asked: releases of some candidates, as many of each as are taken of all.
        nearest: the nearest of a candidate's releases counts, not their mean.
    """

    def __init__(self, query: Query, way: Way, asked: Sequence[Tensor], *, nearest: bool = False) -> None:
        self.query, self.way, self.draws, self.nearest = query, way, len(asked), nearest
        known = torch.stack([way(one) for one in asked])
        if nearest:
            self.centre, self.unit, self.kept = _scale(known.flatten(0, 1), torch.zeros_like(known[0, 0]), 1)
        else:
            noise = known.var(dim=0).mean(dim=0) if len(known) > 1 else torch.zeros_like(known[0, 0])
            self.centre, self.unit, self.kept = _scale(known.mean(0), noise, self.draws)

    def ranks(self, released: Sequence[Tensor], candidates: Sequence[Images]) -> list[int]:
        """As `link_ranks`."""
        at_once = max(1, min(AT_ONCE, VALUES // max(1, released[0][0].numel())))
        victims = self._coded([self.way(rows.float()) for rows in released], 1.0)
        parts = []
        for images in (images for part in candidates if len(part) for images in part.split(at_once)):
            batch = images.to(released[0].device)
            codes = self._coded([self.way(self.query(batch).float()) for _ in range(self.draws)], self.kept)
            parts.append(torch.stack([_squared(one, two) for one in victims for two in codes]).amin(0))
        squared = torch.cat(parts, dim=1)
        own = squared.diagonal()[:, None]
        # "not farther" rather than "nearer": a NaN then counts against the attacker
        near = ~(squared > own + TIE * squared.amax(dim=1, keepdim=True))
        return [max(0, count - 1) for count in near.sum(dim=1).tolist()]

    def _coded(self, releases: list[Tensor], kept: Tensor | float) -> list[Tensor]:
        """Rows (n, D) that are compared: of each release, or of their mean."""
        compared = releases if self.nearest else [torch.stack(releases).mean(0)]
        return [(kept * (one - self.centre) / self.unit).flatten(1) for one in compared]


def _best(query: Query, asked: list[Tensor], some: Tensor) -> _Comparison:
    """The comparison that names most of some candidates by further releases of them; of equal ones the first."""
    own = [query(some).float()]
    best, most = None, -1
    for tried in _comparisons(query, asked, some):
        named = tried.ranks(own, [some]).count(0)
        if named > most:
            best, most = tried, named
        if most == len(some):
            break
    assert best is not None
    return best


def _comparisons(query: Query, asked: list[Tensor], some: Tensor) -> Iterator[_Comparison]:
    """All of them, each made when it is its turn."""
    yield _Comparison(query, _as_sent, asked)
    for way in ([_any_place, _any_token] if asked[0].ndim > 2 else []) + [_any_value]:
        yield _Comparison(query, way, asked)
    more = [query(some).float() for _ in range(NEAREST - len(asked))]
    yield _Comparison(query, _as_sent, asked + more, nearest=True)


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
