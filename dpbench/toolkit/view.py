"""Where on the server's way from a release to logits an attacker looks: at the release, or at what is made of it.

The server's half may undo an order, apply a key, expand a code: then what it computes shows the image where the
release shows nothing. The choice is made once per client, by what the attacker can see.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from dpbench.contract.attack import Client, Observation, Server
from dpbench.machine.devices import exact
from dpbench.toolkit.inverse_network import features_on_grid
from dpbench.toolkit.inversion import channel_axis, pooled, victim_releases
from dpbench.toolkit.linear_inverse import ReadingErrors, some_columns
from dpbench.toolkit.standardising import centre_and_unit, squashed

IMAGES = 128
"""Auxiliary images on which the server is looked at, fewer where it computes much from each."""

MOST_VALUES = 1 << 27
"""Values that are held at once, of all images and all that the server makes of them."""

CLEARLY = 0.85
"""Share of the release's error that a tap must stay below: noise makes some layers of a tail look a little better."""

CLEARLY_OF_NOISE = 0.55
"""Likewise where a client draws anew for each release. A layer that averages noise away is read better by a linear map,
and shows an attacker who trains less than the release: on the suite `faces` such layers stay at 0.6 to 0.7 of its
error, and decoders on them fell from SSIM 0.56 to 0.39; a tail that undoes what hides goes far below."""

SAME = 1e-3
"""Of two releases of an image, relative to their spread: larger differences are drawn, smaller ones are rounding."""

ENOUGH = 0.15
"""Error of a release that hides nothing: the further channels of a tap then make a linear map better, no attack."""

ALIKE = 1.03
"""Of taps whose errors differ by less, the earliest is taken: nothing was lost on the way to it."""

LIKE_FEATURES = 0.4
"""Distance from undefended features within which a static attacker takes a tap for them."""

RELEASES = 32
"""Those on which an attacker who may ask nothing looks at the server."""

SMOOTHER = 0.7
"""Share of the roughness of a release below which the server has undone what hid the image: features of neighbouring
places are alike, as what they are of is."""

ViewKind = Literal["release", "tap", "both"]


@dataclass(frozen=True)
class View:
    """Which part of the server's way is looked at.

    Attributes:
        kind: the release alone, a tap alone, or the release and a tap, side by side along their channels.
        place: of the tap in `Server.activations`.
    """

    kind: ViewKind = "release"
    place: int = 0

    def of(self, server: Server, released: Tensor) -> Tensor:
        """What this view shows of a release (N, ...): a tensor with one row per image."""
        if self.kind == "release":
            return released
        tap = server.activation(released, self.place)
        return tap if self.kind == "tap" else torch.cat([released, tap], channel_axis(tuple(tap.shape)))


@torch.no_grad()
def unasked(
    server: Server, released: Tensor, shapes: Collection[tuple[int, ...]], image_size: tuple[int, int]
) -> tuple[View, str]:
    """The view, and it in words, of an attacker who may ask nothing and knows what shape the client's features have.

    The first tap of such a shape, or, where a later one of its shape is smoother, what an order was restored in.

    Args:
        server: the attacker's.
        released: (N, ...), of any images.
        shapes: that a client's features may have, without the batch axis.
        image_size: (H, W).
    """
    taps = server.activations(released[:RELEASES])
    places = [place for place, tap in enumerate(taps) if tuple(tap.shape[1:]) in shapes]
    if not places:
        return View(), "release"
    like = [place for place in places if taps[place].shape == taps[places[0]].shape]
    rough = [_roughness(taps[place], image_size) for place in like]
    place = next((place for place, size in zip(like, rough, strict=True) if size < SMOOTHER * rough[0]), like[0])
    view = View("tap", place) if place else View()
    return view, _in_words(view, len(taps), tuple(taps[place].shape[1:]))


def _roughness(features: Tensor, image_size: tuple[int, int]) -> float:
    """How unlike features (N, ...) of neighbouring places are: 0 all alike, 1 unrelated, or on no grid."""
    grid = features_on_grid(features, image_size)
    if grid is None or min(grid.shape[2:]) < 2:
        return 1.0
    centred = exact(grid) - exact(grid).mean((0, 2, 3), keepdim=True)
    varies = centred.square().mean((0, 2, 3))
    apart = (centred.diff(dim=2).square().mean((0, 2, 3)) + centred.diff(dim=3).square().mean((0, 2, 3))) / 4
    alive = varies > 1e-12 * varies.max()
    return float((apart[alive] / varies[alive]).mean()) if bool(alive.any()) else 1.0


def viewed(seen: Observation) -> Observation:
    """The same observation through the best view: releases, queries and client up to the tap that shows most.

    Without a server it is `seen` itself. What was chosen is noted. A static attacker prepared for features of the
    undefended client: where it finds nothing of their shape, it is left with their mean, which tells no victim apart.
    """
    server = seen.server
    if seen.query is None and seen.client is None:
        return seen
    if server is None:
        return seen if seen.adaptive else _readable(seen)
    view, words = _chosen(seen, server) if seen.adaptive else _static(seen, server)
    seen.notes["view"] = words or "release"
    if view.kind == "release":
        return seen if words else _readable(seen)

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


def _readable(seen: Observation) -> Observation:
    """What a static attacker can give to what it prepared: the release, or the mean of undefended features."""
    query, images = seen.granted_query(), seen.auxiliary.images[:IMAGES].to(seen.released.device)
    with torch.no_grad():
        shape = query(images[:1]).shape[1:]
        if seen.released.shape[1:] == shape:
            return seen
        mean = query(images).mean(0, keepdim=True)
    seen.notes["view"] = f"nothing of the shape {tuple(shape)} that was prepared for: the mean of such features"
    guess = mean.expand(len(seen.released), *shape)
    return replace(seen, released=guess, again=(guess,) * len(seen.again))


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
        self._client = client
        self.through = through

    def release(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return self.through(self._client.release(images, generator=generator))

    def releases(self, images: Tensor, draws: int, *, generator: torch.Generator | None = None) -> list[Tensor]:
        return [self.through(released) for released in self._client.releases(images, draws, generator=generator)]


def _chosen(seen: Observation, server: Server) -> tuple[View, str]:
    """The view, and it in words, chosen by how well small auxiliary images are read linearly from each tap."""
    query = seen.granted_query()
    kinds: list[ViewKind] = ["release", "tap", "both"]

    def choose(generator: torch.Generator) -> dict[str, Tensor]:
        seen.progress("looking at the server")
        with torch.no_grad():
            known = seen.auxiliary.images[:IMAGES].to(seen.released.device)
            first = query(known[:2])
            values = sum(math.prod(tap.shape[1:]) for tap in server.activations(first))
            known = known[: max(IMAGES // 4, MOST_VALUES // values)]
            taps = server.activations(query(known))
            drawn = (exact(first) - exact(taps[0][:2])).abs().max() > SAME * exact(taps[0]).std()
            view, errors = _best(taps, known, CLEARLY_OF_NOISE if drawn else CLEARLY)
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


def _best(taps: tuple[Tensor, ...], images: Tensor, clearly: float = CLEARLY) -> tuple[View, list[float]]:
    """The view, and the error of each tap alone: share of the small images' variance that is not read from it.

    `clearly`: the share of the release's error below which a tap alone is taken.
    """
    reading = ReadingErrors(images)
    errors = [reading.error([tap]) for tap in taps]
    lowest = min(errors)
    if reading.is_whole([taps[errors.index(lowest)]]):  # like is compared with like
        errors[0] = min(errors[0], reading.whole([taps[0]]))
    release = errors[0]
    if release < ENOUGH:
        return View(), errors
    best = next(place for place, error in enumerate(errors) if error <= ALIKE * lowest)
    # looked at closely only then: a layer that smooths noise away shows no more than neighbours in the release do
    clear = lowest < clearly * release and (
        reading.error([taps[best]], reach=1) < CLEARLY * reading.error([taps[0]], reach=1)
    )
    view = View("tap", best) if clear else View()
    tap = taps[view.place]
    if view.place and tap.shape == taps[0].shape and max(release, lowest) < 1:
        # neither alone shows all: half of the image in the release, half in what its code stands for
        if reading.error([taps[0], tap]) < CLEARLY * errors[view.place]:
            view = View("both", view.place)
    return view, errors


@torch.no_grad()
def _static(seen: Observation, server: Server) -> tuple[View, str]:
    """The view, and it in words, of a static attacker: the tap most like features of the undefended client.

    No words where nothing has the shape of such features.

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
        return some_columns(squashed((exact(features.flatten(1)) - centre) / unit))

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
    if math.isinf(distances[best]):
        return View(), ""
    if math.isfinite(distances[0]) and not distances[best] < min(LIKE_FEATURES, distances[0] / 2):
        return View(), "release"
    view = View("tap", best)
    return view, _in_words(view, len(taps), tuple(shape))
