"""Why a finished unit is to run again: what of its plug-ins is not what it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dpbench.contract.spec import PluginSpec
from dpbench.plugins.image_sets import content_of
from dpbench.records.record import Envelope
from dpbench.running.protocol import Protocol
from dpbench.running.unit import U


def changes(protocol: Protocol[U, Any], to_run: Iterable[U], measured: Iterable[U]) -> list[str]:
    """One line for everything that changed: `mask.pth changed: 6 cells again`.

    Args:
        protocol: of the units.
        to_run: units without a record.
        measured: units with one, in the order in which they were measured.
    """
    stored = list(measured)
    before = {unit.version_free_id: unit for unit in stored}
    on_any_data = {protocol.without_data(unit).version_free_id: unit for unit in stored}
    counted: Counter[str] = Counter()
    for unit in to_run:
        known = before.get(unit.version_free_id)
        if known is not None:
            pairs = zip(protocol.plugins(known), protocol.plugins(unit), strict=True)
            counted.update({name for (_, was), (_, now) in pairs for name in _changed(was, now)})
        elif (known := on_any_data.get(protocol.without_data(unit).version_free_id)) is not None:
            now, then = protocol.data(unit), protocol.data(known)
            # another folder is another request, and the same one with other images is a change
            if all(role in then and then[role][0].name == spec.name for role, (spec, _) in now.items()):
                counted.update({spec.name for role, (spec, mark) in now.items() if then[role][1] != mark})
    return said(counted, protocol.unit)


def said(counted: Counter[str], unit: str) -> list[str]:
    """What changed -> how many units run again, a line each."""
    return [
        f"{name} changed: {count} {unit}{'s' if count > 1 else ''} again" for name, count in sorted(counted.items())
    ]


class Exchanged:
    """Finds finished units whose data lies in other files than when they were measured.

    Only of what is identified by its name, `torch/...`: of all else the id says which images it is about.

    Args:
        protocol: of the units.
        cache: where decoded images lie.
    """

    def __init__(self, protocol: Protocol[Any, Any], cache: Path) -> None:
        self._protocol = protocol
        self._cache = cache
        self._now: dict[str, str] = {}

    def of(self, unit: Any, record: Envelope) -> str:
        """The data set that was exchanged under the record of a unit; empty where none was."""
        found = ""
        for role, (spec, _) in self._protocol.data(unit).items():
            if was := record.data_files.get(role, ""):
                if spec.name not in self._now:
                    self._now[spec.name] = content_of(spec, self._cache)
                if self._now[spec.name] not in ("", was):
                    found = spec.name
        return found


def _changed(before: PluginSpec, now: PluginSpec) -> set[str]:
    """Names of files; of a plug-in that has none its name."""
    names = {**before.files, **now.files}
    files = {_file_name(name, now) for name in names if before.files.get(name) != now.files.get(name)}
    return files or ({now.name} if before.source != now.source else set())


def _file_name(name: str, plugin: PluginSpec) -> str:
    """Of a parameter the name of the file that it is given."""
    return str(plugin.shown_arguments[name]).rpartition(":")[0] if name in plugin.arguments else name
