"""Plug-ins with their parameters: checked, described in words, and made again as a cell names them."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import pydantic

from dpbench.contract.attack import Attack
from dpbench.contract.defense import Defense
from dpbench.contract.plugin import Plugin
from dpbench.contract.spec import PluginSpec
from dpbench.errors import DpbenchError, is_interrupt, reason, unknown
from dpbench.machine.process_state import preserved
from dpbench.plugins.registry import find, find_attack, find_defense
from dpbench.plugins.sources import files_of
from dpbench.text.limits import fields_of, limits_of

P = TypeVar("P", bound=Plugin)


def configure(cls: type[P], arguments: dict[str, Any]) -> P:
    """An instance with checked parameters.

    Raises:
        DpbenchError: an unknown parameter (with a suggestion) or a value out of its range.
    """
    for key in arguments:
        if key not in cls.model_fields:
            raise unknown(f"parameter of {cls.name!r}", key, cls.model_fields)
    from dpbench.plugins.stand_in import StandIn, configured

    if issubclass(cls, StandIn):
        return cls(**configured(cls, arguments))
    try:
        with preserved():
            return cls(**copy.deepcopy(arguments))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DpbenchError(
            f"{cls.name}: parameter {where} = {first['input']!r} does not fit: {first['msg']}; "
            f"{describe_parameter(cls, where)}"
        ) from error
    except BaseException as error:  # a validator of a plug-in's own may raise anything
        if is_interrupt(error):
            raise
        raise DpbenchError(f"{cls.name} cannot be made with {arguments}: {reason(error)}") from error


def limits(cls: type[Plugin]) -> dict[str, str]:
    """Parameter -> its range in words, such as `>= 0, <= 1`; empty where it has none."""
    from dpbench.plugins.stand_in import StandIn

    return cls.ranges if issubclass(cls, StandIn) else {name: limits_of(f) for name, f in fields_of(cls).items()}


def describe_parameter(cls: type[Plugin], name: str) -> str:
    """One parameter in words, default and range: `std = 0.5 (>= 0)`; empty where there is none of that name."""
    if name not in cls.model_fields:
        return ""
    within = limits(cls)[name]
    return f"{name} = {cls.model_fields[name].default!r}{f' ({within})' if within else ''}"


def configured_as(spec: PluginSpec, sort: str) -> Plugin:
    """The configured plug-in of a cell, a new one each time; `sort` as in `dpbench.plugins.registry.BASES`.

    Raises:
        DpbenchError: its code, or a file that it is given, is not what it was when the run was planned.
    """
    return _unchanged(configure(find(sort, spec.name), spec.arguments), spec)


def defense_of(spec: PluginSpec) -> Defense:
    """The configured defense of a cell, a new one each time.

    Raises:
        DpbenchError: its code, or a file that it is given, is not what it was when the run was planned.
    """
    return _unchanged(configure(find_defense(spec.name), spec.arguments), spec)


def attack_of(spec: PluginSpec) -> Attack:
    """The configured attack of a cell, a new one each time.

    Raises:
        DpbenchError: as `defense_of`.
    """
    return _unchanged(configure(find_attack(spec.name), spec.arguments), spec)


def _unchanged(plugin: P, spec: PluginSpec) -> P:
    found = files_of(plugin) if spec.files else {}
    changed = sorted(name for name in {**found, **spec.files} if found.get(name) != spec.files.get(name))
    if changed:
        raise DpbenchError(f"{spec.name}: {', '.join(changed)} changed since the run was planned; run again")
    return plugin
