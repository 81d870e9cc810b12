"""What a cell is called, in words. Reading a record never imports a plug-in: it may come from a stranger.

A record says itself what it is called. For one of before, the defaults of the built-in plug-ins are looked up; of any
other plug-in the name and all arguments are shown.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from dpbench.contract.attack import Attack
from dpbench.contract.defense import Defense
from dpbench.contract.plugin import Plugin
from dpbench.contract.spec import PluginSpec
from dpbench.plugins.registry import GROUP, find_attack, find_defense
from dpbench.suite.cell import CellSpec
from dpbench.suite.names import short_name

P = TypeVar("P", bound=Plugin)


class Words(BaseModel):
    """A cell or unit in words, as its plug-ins were when it was measured: to read a record no plug-in is imported."""

    model_config = ConfigDict(extra="forbid")

    label: str = Field(description="`resnet10t layer1 | gaussian std=0.5 | decoder | weights | seed 0`")
    full: str = Field(description="the same with the parameters of the attack")
    defense: str = Field(description="`gaussian std=0.5`: parameters that are not at their defaults, and the first")
    attack: str = Field(description="its name")


BUILT_IN = ("dpbench_attacks", "dpbench_defenses")
"""Packages that come with dpbench."""


def words_of_cell(cell: CellSpec) -> Words:
    """What a cell is called by its names and arguments alone."""
    defense = words_of_plugin(cell.defense, Defense)
    known = built_in(Attack).get(cell.attack.name)
    attack = known.name if known is not None else short_name(cell.attack.name)
    return Words(
        label=label_of(cell, defense, attack),
        full=label_of(cell, defense, words_of_plugin(cell.attack, Attack)),
        defense=defense,
        attack=attack,
    )


def label_of(cell: CellSpec, defense: str, attack: str) -> str:
    """`resnet10t layer1 | gaussian std=0.5 | decoder | weights | seed 0`."""
    return f"{cell.backbone.shown} {cell.split_point} | {defense} | {attack} | {cell.granted} | seed {cell.seed}"


def words_of_plugin(spec: PluginSpec, kind: type[Plugin]) -> str:
    """A plug-in in words, without importing it: of a built-in one `gaussian std=0.5`, of others all arguments."""
    known = built_in(kind).get(spec.name)
    if known is not None:
        return in_words(spec, known.name, defaults_of(known), always=1 if kind is Defense else 0)
    return in_words(spec, short_name(spec.name), dict.fromkeys(spec.arguments), always=len(spec.arguments))


def in_words(spec: PluginSpec, name: str, defaults: Mapping[str, Any], *, always: int) -> str:
    """The name and the parameters that are not at their defaults; the first `always` of them in any case."""
    arguments = spec.shown_arguments
    shown = [
        f"{key}={arguments[key]}"
        for index, (key, default) in enumerate(defaults.items())
        if key in spec.arguments and (index < always or spec.arguments[key] != default)
    ]
    return " ".join([name, *shown])


def defaults_of(cls: type[Plugin]) -> dict[str, Any]:
    """Parameter -> default, in the order of the class, as arguments are stored: JSON knows no tuples."""
    return {
        key: list(field.default) if isinstance(field.default, tuple) else field.default
        for key, field in cls.model_fields.items()
    }


@functools.cache
def built_in(kind: type[P]) -> dict[str, type[P]]:
    """The built-in plug-ins of a kind by name; no other package is imported."""
    for entry in importlib.metadata.entry_points(group=GROUP):
        if entry.value in BUILT_IN:
            entry.load()
    return {
        cls.name: cls for cls in _below(kind) if cls.__module__.partition(".")[0] in BUILT_IN and "name" in vars(cls)
    }


def ssim_text(fidelity: Mapping[str, Sequence[float]], decimals: int = 2) -> str:
    """`SSIM 0.83`: the mean over the victims, or that there is none."""
    values = fidelity.get("ssim")
    return f"SSIM {sum(values) / len(values):.{decimals}f}" if values else "no SSIM"


def _below(cls: type[P]) -> list[type[P]]:
    return [found for below in cls.__subclasses__() for found in (below, *_below(below))]


def words_for(cell: CellSpec) -> Words:
    """What a cell is called, by its plug-ins as they are now; records keep it.

    Parameters at their defaults are left out, and in the label those of the attack altogether.
    """
    defense, attack = find_defense(cell.defense.name), find_attack(cell.attack.name)
    protected = in_words(cell.defense, defense.name, defaults_of(defense), always=1)
    attacked = in_words(cell.attack, attack.name, defaults_of(attack), always=0)
    return Words(
        label=label_of(cell, protected, attack.name),
        full=label_of(cell, protected, attacked),
        defense=protected,
        attack=attack.name,
    )


def label(cell: CellSpec, *, full: bool = False) -> str:
    """A cell in words: `resnet10t layer1 | gaussian std=0.5 | decoder | weights | seed 0`; see `words_for`."""
    words = words_for(cell)
    return words.full if full else words.label


def setting(cell: CellSpec) -> str:
    """What of a cell is there before any attack, in words: `resnet10t layer1 | gaussian std=0.5 | seed 0`."""
    return f"{cell.backbone.shown} {cell.split_point} | {words_for(cell).defense} | seed {cell.seed}"
