"""Why a finished unit is to run again: what of its plug-ins is not what it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from dpbench.contract.spec import PluginSpec
from dpbench.running.protocol import Protocol, U


def changes(protocol: Protocol[U, Any], to_run: Iterable[U], measured: Iterable[U]) -> list[str]:
    """One line for everything that changed: `mask.pth changed: 6 cells again`.

    Args:
        protocol: of the units.
        to_run: units without a record.
        measured: units with one, in the order in which they were measured.
    """
    before = {unit.version_free_id: unit for unit in measured}
    counted: Counter[str] = Counter()
    for unit in to_run:
        known = before.get(unit.version_free_id)
        if known is not None:
            pairs = zip(protocol.plugins(known), protocol.plugins(unit), strict=True)
            counted.update({name for (_, was), (_, now) in pairs for name in _changed(was, now)})
    return [
        f"{name} changed: {count} {protocol.unit}{'s' if count > 1 else ''} again"
        for name, count in sorted(counted.items())
    ]


def _changed(before: PluginSpec, now: PluginSpec) -> set[str]:
    """Names of files; of a plug-in that has none its name."""
    names = {**before.files, **now.files}
    files = {_file_name(name, now) for name in names if before.files.get(name) != now.files.get(name)}
    return files or ({now.name} if before.source != now.source else set())


def _file_name(name: str, plugin: PluginSpec) -> str:
    """Of a parameter the name of the file that it is given."""
    return str(plugin.shown_arguments[name]).rpartition(":")[0] if name in plugin.arguments else name
