"""Whether each defense can be built where a suite wants it, asked before anything is fitted."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import NamedTuple

import torch

from dpbench.contract.defense import Defense, SplitModel
from dpbench.contract.spec import PluginSpec
from dpbench.contract.threat import UNDEFENDED
from dpbench.errors import DpbenchError
from dpbench.machine.process_state import preserved
from dpbench.models import splitting
from dpbench.models.adapters import encoder
from dpbench.models.spec import BackboneSpec
from dpbench.plugins.apart.remote import crosses
from dpbench.plugins.configuring import defense_of

LARGEST = 50_000_000
"""Parameters of a network that is made to ask; the build of a larger one takes as long as a small one's fit."""

_Key = tuple[int, str, int]
"""A place: the identity of its backbone, its split point and its image size."""


class Place(NamedTuple):
    """Where a defense is to work.

    Attributes:
        backbone: the network.
        split_point: a module name.
        image_size: side of its images in pixels.
    """

    backbone: BackboneSpec
    split_point: str
    image_size: int


def assert_applicable(wanted: Iterable[tuple[PluginSpec, Place]]) -> None:
    """Refuse a setting that can be built at none of its places: every cell of it would fail, after its network's fit.

    One that fits some of them is left alone, as in a suite of networks of several kinds. Defenses of others, whose code
    runs in a process of its own, are not asked, nor any about a network of more than `LARGEST` parameters.

    Args:
        wanted: settings, each with a place; of any number.

    Raises:
        DpbenchError: what the defense says of the first place.
    """
    settings: dict[int, tuple[PluginSpec, dict[_Key, Place]]] = {}  # the units of a plan share their specs
    for spec, place in wanted:
        if spec.name != UNDEFENDED:
            places = settings.setdefault(id(spec), (spec, {}))[1]
            places.setdefault((id(place.backbone), place.split_point, place.image_size), place)
    halves: dict[_Key, SplitModel | None] = {}
    for spec, places in settings.values():
        defense = defense_of(spec)
        if not crosses(defense, audit=False):
            _assert_built_somewhere(defense, places, halves)


def _assert_built_somewhere(defense: Defense, places: dict[_Key, Place], halves: dict[_Key, SplitModel | None]) -> None:
    refusals: list[DpbenchError] = []
    for where, place in places.items():
        if where not in halves:
            halves[where] = _halves(place)
        split = halves[where]
        if split is None:
            return
        try:
            with preserved():
                defense.build(copy.deepcopy(split))
            return
        except DpbenchError as error:
            refusals.append(error)
    raise refusals[0]


def _halves(place: Place) -> SplitModel | None:
    """The network with weights of no matter; None where it is large, or cannot be cut, which its fit will say."""
    shape, classes = (3, place.image_size, place.image_size), 2
    with preserved():
        if not place.backbone.own:
            with torch.device("meta"):
                outline = encoder.create_network(place.backbone, image_size=place.image_size, classes=classes)
            if sum(values.numel() for values in outline.parameters()) > LARGEST:
                return None
        try:
            network = encoder.create_network(place.backbone, image_size=place.image_size, classes=classes)
            return splitting.split_model(
                network, place.split_point, image_shape=shape, classes=classes, name=place.backbone.name
            )
        except DpbenchError:
            return None
