"""Attacks and defenses that somebody holds: classes and instances defined in a notebook or a script.

They run in this process, with no border between them and what judges them: their figures are for whoever holds them.
A record says so (`apart` does not list them), and `dpbench verify` finds it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dpbench.contract.attack import Attack
from dpbench.contract.defense import Defense
from dpbench.contract.plugin import Plugin
from dpbench.errors import DpbenchError
from dpbench.plugins import registry, sources
from dpbench.suite.suite import AttackEntry, PluginEntry

Held = str | Plugin | type[Plugin]
"""A name, `path/to/file.py:Name`, a class, or an instance with its parameters."""


@contextmanager
def holding(defenses: Sequence[Held], attacks: Sequence[Held]) -> Iterator[tuple[list[PluginEntry], list[AttackEntry]]]:
    """Make what is given known to the engine while the block runs.

    Each time it is known under a mark of its own: what a class calls may have changed since, so nothing that was
    fitted or measured with it before is taken for it.

    Args:
        defenses: to be measured.
        attacks: to be run.

    Yields:
        The entries of a suite that name them.

    Raises:
        DpbenchError: something that is no defense or attack, or whose name another has.
    """
    pairs = [(one, base) for base, given in ((Defense, defenses), (Attack, attacks)) for one in given]
    classes = dict.fromkeys(cls for one, base in pairs if (cls := _class_of(one, base)) is not None)
    known = registry.every()
    added = []
    try:
        for cls in classes:
            if sources.is_own(cls):
                continue
            if known[registry.sort_of(cls)].get(cls.name) is not cls:
                registry.register(cls)
                added.append(cls)
            sources.HELD[cls] = secrets.token_hex(6)
        yield [PluginEntry(**_entry(one)) for one in defenses], [AttackEntry(**_entry(one)) for one in attacks]
    finally:
        for cls in classes:
            sources.HELD.pop(cls, None)
        for cls in added:
            registry.forget(cls)


def _class_of(given: Held, base: type[Plugin]) -> type[Plugin] | None:
    """The class of what is given; None for a name, which the registry finds."""
    if isinstance(given, str):
        return None
    cls = given if isinstance(given, type) else type(given)
    if not issubclass(cls, base):
        raise DpbenchError(
            f"{cls.__name__} is no {base.__name__}: expected a name, a class derived from dpbench.{base.__name__}, or "
            "an instance of one"
        )
    return cls


def _entry(given: Held) -> dict[str, Any]:
    if isinstance(given, str):
        return {"name": given}
    if isinstance(given, type):
        return {"name": given.name}
    # a list would be several settings: each parameter has one value
    return {"name": given.name, **{key: [value] for key, value in given.model_dump(mode="json").items()}}
