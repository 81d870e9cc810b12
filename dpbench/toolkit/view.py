"""Where on the server's way from a release to logits an attacker looks: at the release, or at what is made of it.

The server's half may undo an order, apply a key, expand a code: then what it computes shows the image where the
release shows nothing. The choice is made once per client, by what the attacker can see.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from dpbench.contract.attack import Client, Observation, Server
from dpbench.toolkit.inverse_network import features_on_grid
from dpbench.toolkit.inversion import channel_axis, pooled, victim_releases
from dpbench.toolkit.standardising import centre_and_unit, exact, squashed

IMAGES = 128
"""Auxiliary images on which the server is looked at, fewer where it computes much from each."""

MOST_VALUES = 1 << 27
"""Values that are held at once, of all images and all that the server makes of them."""

MOST_COLUMNS = 16384
"""Values of an image that a score looks at; more of them say the same again."""

SIDE = 16
"""Pixels a side of the small images that a good view shows."""

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Shares of the mean eigenvalue, of which the best counts."""

CLEARLY = 0.85
"""Share of the release's error that a tap must stay below: noise makes some layers of a tail look a little better."""

ENOUGH = 0.15
"""Error of a release that hides nothing: the further channels of a tap then make a linear map better, no attack."""

ALIKE = 1.03
"""Of taps whose errors differ by less, the earliest is taken: nothing was lost on the way to it."""

LIKE_FEATURES = 0.4
"""Distance from undefended features within which a static attacker takes a tap for them."""

Kind = Literal["release", "tap", "both"]


@dataclass(frozen=True)
class View:
    """Which part of the server's way is looked at.

    Attributes:
        kind: the release alone, a tap alone, or the release and a tap, side by side along their channels.
        place: of the tap in `Server.activations`.
    """

    kind: Kind = "release"
    place: int = 0

    def of(self, server: Server, released: Tensor) -> Tensor:
        """What it shows of a release (N, ...)."""
        if self.kind == "release":
            return released
        tap = server.activation(released, self.place)
        return tap if self.kind == "tap" else torch.cat([released, tap], channel_axis(tuple(tap.shape)))


def viewed(seen: Observation) -> Observation:
    """The same observation through the best view: releases, queries and client up to the tap that shows most.

    Without a server it is `seen` itself. What was chosen is noted.
    """
    server = seen.server
    if server is None or (seen.query is None and seen.client is None):
        return seen
    view, words = _chosen(seen, server) if seen.adaptive else _static(seen, server)
    seen.notes["view"] = words
    if view.kind == "release":
        return seen

    def through(released: Tensor) -> Tensor:
        return view.of(server, released)

    with torch.no_grad():
        released, *again = (through(release) for release in (seen.released, *seen.again))
    changed = replace(seen, released=released, again=tuple(again))
    if not seen.adaptive:
        return changed  # prepared on the undefended client, whose features the tap is like
    query = seen.query
    name = f"{view.kind}{view.place}"
    return replace(
        changed,
        query=_Query(query, through) if query is not None else None,
        client=_Client(seen.client, through) if seen.client is not None else None,
        remember=lambda what, train, depends_on, *, owner=None: seen.remember(
            f"{what}-{name}" if depends_on == "query" else what, train, depends_on, owner=owner
        ),
    )


class _Query:
    """The black box, and the server up to the view."""

    def __init__(self, query: Callable[[Tensor], Tensor], through: Callable[[Tensor], Tensor]) -> None:
        self.query = query
        self.through = through

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        return self.through(self.query(images))


class _Client:
    """The white box, and the server up to the view."""

    def __init__(self, client: Client, through: Callable[[Tensor], Tensor]) -> None:
        self.features = client.features
        self._release = client.release
        self.through = through

    def release(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return self.through(self._release(images, generator=generator))


def _chosen(seen: Observation, server: Server) -> tuple[View, str]:
    """By how well small auxiliary images can be read from each tap, linearly."""
    query = seen.granted_query()
    kinds: list[Kind] = ["release", "tap", "both"]

    def choose(generator: torch.Generator) -> dict[str, Tensor]:
        seen.progress("looking at the server")
        with torch.no_grad():
            known = seen.auxiliary.images[:IMAGES].to(seen.released.device)
            first = query(known[:2])
            values = sum(math.prod(tap.shape[1:]) for tap in server.activations(first))
            known = known[: max(IMAGES // 4, MOST_VALUES // values)]
            taps = server.activations(query(known))
            view, errors = _best(taps, known)
        return {
            "kind": torch.tensor(kinds.index(view.kind)),
            "place": torch.tensor(view.place),
            "shape": torch.tensor(taps[view.place].shape[1:]),
            "errors": torch.tensor(errors),
        }

    state = seen.remember("view", choose, "query", owner=("view", "v2"))
    view = View(kinds[int(state["kind"])], int(state["place"]))
    return view, _in_words(view, len(state["errors"]), tuple(state["shape"].tolist()))


def _in_words(view: View, taps: int, shape: tuple[int, ...]) -> str:
    tap = f"tap {view.place} of {taps - 1}: {shape}"
    return {"release": "release", "tap": tap, "both": f"release and {tap}"}[view.kind]


def _best(taps: tuple[Tensor, ...], images: Tensor) -> tuple[View, list[float]]:
    """The view, and the error of each tap alone: share of the small images' variance that is not read from it."""
    scores = _Scores(images)
    errors = [scores.error([tap]) for tap in taps]
    lowest = min(errors)
    if scores.is_whole([taps[errors.index(lowest)]]):  # like is compared with like
        errors[0] = min(errors[0], scores.whole([taps[0]]))
    release = errors[0]
    if release < ENOUGH:
        return View(), errors
    best = next(place for place, error in enumerate(errors) if error <= ALIKE * lowest)
    # looked at closely only then: a layer that smooths noise away shows no more than neighbours in the release do
    clear = lowest < CLEARLY * release and (
        scores.error([taps[best]], reach=1) < CLEARLY * scores.error([taps[0]], reach=1)
    )
    view = View("tap", best) if clear else View()
    tap = taps[view.place]
    if view.place and tap.shape == taps[0].shape and max(release, lowest) < 1:
        # neither alone shows all: half of the image in the release, half in what its code stands for
        if scores.error([taps[0], tap]) < CLEARLY * errors[view.place]:
            view = View("both", view.place)
    return view, errors


class _Scores:
    """How well small images (N,3,16,16) or so are read from features, linearly, on images that were left out.

    Args:
        images: (N,3,H,W).
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images
        small = functional.adaptive_avg_pool2d(images, SIDE).flatten(1)
        self.small = exact(small - small.mean(0))
        self.known: dict[tuple[object, ...], float] = {}

    def error(self, features: list[Tensor], *, reach: int = 0) -> float:
        """From the features (N, ...) together: patch by patch where they lie on a grid, as decoders do, else at once.

        Args:
            features: any number of taps.
            reach: a patch is read from positions up to so far from its own.
        """
        about = (reach, *(_fingerprint(tap) for tap in features))  # many are copies of each other
        if about not in self.known:
            standard = [_standard(tap) for tap in features]
            by_patches = [self._by_patches(standard, nearby) for nearby in range(reach + 1)]
            self.known[about] = min((error for error in by_patches if error is not None), default=1.0)
            if by_patches[0] is None:
                self.known[about] = self.whole(features)
        return self.known[about]

    def is_whole(self, features: list[Tensor]) -> bool:
        """Whether `error` reads them at once: they lie on no grid, or the images are few for so many channels."""
        return self._by_patches([_standard(tap) for tap in features], 0) is None

    def whole(self, features: list[Tensor]) -> float:
        """Read at once, each image predicted from the others (Golub, Heath & Wahba 1979): ridge, in its dual form."""
        rows = torch.cat([_some_columns(_standard(tap).flatten(1)) for tap in features], 1)
        gram = exact(rows @ rows.T)
        values, vectors = torch.linalg.eigh(gram.cpu())
        values, truth = values.clamp_min(0), vectors.T @ self.small.cpu()
        if not values.mean() > 0:
            return 1.0
        errors = []
        for ridge in RIDGES:
            kept = values / (values + ridge * values.mean())
            left = self.small.cpu() - vectors @ (kept[:, None] * truth)
            # 1/N: the mean is estimated too
            alone = left / (1 - 1 / len(rows) - vectors.square() @ kept)[:, None]
            errors.append(float(alone.square().sum() / self.small.square().sum().cpu()))
        return min(errors)

    def _by_patches(self, features: list[Tensor], reach: int) -> float | None:
        """One linear map from the channels around a position to the patch of the image there, as convolutions do.

        None where they lie on no grid, or the images are too few for so many channels.
        """
        maps = [features_on_grid(tap, (self.images.shape[2], self.images.shape[3])) for tap in features]
        grids = {grid.shape[2:] for grid in maps if grid is not None}
        if len(grids) != 1 or any(grid is None for grid in maps):
            return None
        grid = torch.cat([grid for grid in maps if grid is not None], 1)
        height, width = (min(SIDE, side) for side in grid.shape[2:])
        grid = functional.adaptive_avg_pool2d(grid, (height, width))
        factors = max(1, SIDE // height), max(1, SIDE // width)
        small = functional.adaptive_avg_pool2d(self.images, (height * factors[0], width * factors[1]))
        patches = small.unflatten(3, (width, factors[1])).unflatten(2, (height, factors[0]))
        truth = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (N, positions, values)
        given = functional.unfold(grid, 2 * reach + 1, padding=reach).transpose(1, 2)
        half = len(truth) // 2
        if half * height * width < 2 * given.shape[2]:
            return None
        wrong, spread = 0.0, 0.0
        for known, other in ((slice(half), slice(half, None)), (slice(half, None), slice(half))):
            x, y = (exact(values[known].flatten(0, 1)) for values in (given, truth))
            x_mean, y_mean = x.mean(0), y.mean(0)
            square = (x - x_mean).T @ (x - x_mean)
            square.diagonal().add_(RIDGES[0] * square.diagonal().mean() + torch.finfo(square.dtype).tiny ** 0.5)
            matrix = torch.linalg.solve(square, (x - x_mean).T @ (y - y_mean))
            x, y = (exact(values[other].flatten(0, 1)) for values in (given, truth))
            wrong += float(((x - x_mean) @ matrix + y_mean - y).square().sum())
            spread += float((y - y_mean).square().sum())
        return wrong / spread if spread > 0 else 1.0


def _standard(features: Tensor) -> Tensor:
    """Features (N, ...) in float32, every value about 0 and of unit variance over the images, without outliers."""
    rows = features.flatten(1)
    centre, unit = centre_and_unit(rows)
    units = squashed((exact(rows) - centre) / unit)
    units = units - units.mean(0)
    size = units.std(0, correction=0)
    return torch.where(size > 0, units / torch.where(size > 0, size, 1), 0).float().view(features.shape)


def _fingerprint(features: Tensor) -> tuple[object, ...]:
    """The same for copies, another one where the order differs."""
    ends = exact(torch.stack([features[0], features[-1]]).flatten(1))
    weights = torch.arange(1, ends.shape[1] + 1, device=ends.device).to(ends).sqrt()
    return tuple(features.shape), *(ends @ weights).tolist()


def _some_columns(rows: Tensor) -> Tensor:
    """At most `MOST_COLUMNS` columns, spread over all."""
    step = -(-rows.shape[1] // MOST_COLUMNS)
    return rows[:, ::step]


@torch.no_grad()
def _static(seen: Observation, server: Server) -> tuple[View, str]:
    """By what looks most like features of the undefended client, among what has their shape.

    How much of the victims' features can be composed of those of auxiliary images, and how much there is beside: an
    order that is not that of undefended features shows in both.
    """
    query = seen.granted_query()
    known = query(seen.auxiliary.images[: 2 * IMAGES].to(seen.released.device))
    shape = known.shape[1:]
    half = len(known) // 2
    rows = known.flatten(1)
    centre, unit = centre_and_unit(rows[:half])

    def units(features: Tensor) -> Tensor:
        return _some_columns(squashed((exact(features.flatten(1)) - centre) / unit))

    basis = units(known[:half])
    basis = torch.linalg.svd(basis, full_matrices=False).Vh  # (half, D), orthonormal

    def parts(features: Tensor) -> Tensor:
        """Mean squares of what the basis composes and of the rest, as logarithms, (2,)."""
        values = units(features)
        inside = values @ basis.T
        whole = values.square().sum(1).mean()
        within = inside.square().sum(1).mean()
        return torch.stack([within, whole - within]).clamp_min(1e-12).log()

    normal = parts(known[half:])
    victims = pooled(victim_releases(seen))[:IMAGES]
    taps = server.activations(victims.to(seen.released.dtype))
    distances = [float((parts(tap) - normal).abs().sum()) if tap.shape[1:] == shape else math.inf for tap in taps]
    best = min(range(len(taps)), key=distances.__getitem__)
    if not distances[best] < min(LIKE_FEATURES, distances[0] / 2):
        return View(), "release"
    view = View("tap", best)
    return view, _in_words(view, len(taps), tuple(shape))
