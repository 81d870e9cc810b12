"""Why a finished unit is to run again: what of its plug-ins is not what it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dpbench.contract.spec import PluginSpec
from dpbench.plugins.image_sets import content_of
from dpbench.running.protocol import Protocol, R, U


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


def exchanged(
    protocol: Protocol[U, R], units: Mapping[str, U], finished: Mapping[str, R], cache: Path
) -> dict[str, str]:
    """Ids of finished units whose data lies in other files than when they were measured -> the data set.

    Only of what is identified by its name, `torch/...`: of all else the id says which images it is about.
    """
    now: dict[str, str] = {}
    found = {}
    for name, record in finished.items():
        for role, (spec, _) in protocol.data(units[name]).items():
            if was := record.data_files.get(role, ""):
                if spec.name not in now:
                    now[spec.name] = content_of(spec, cache)
                if now[spec.name] not in ("", was):
                    found[name] = spec.name
    return found


def _changed(before: PluginSpec, now: PluginSpec) -> set[str]:
    """Names of files; of a plug-in that has none its name."""
    names = {**before.files, **now.files}
    files = {_file_name(name, now) for name in names if before.files.get(name) != now.files.get(name)}
    return files or ({now.name} if before.source != now.source else set())


def _file_name(name: str, plugin: PluginSpec) -> str:
    """Of a parameter the name of the file that it is given."""
    return str(plugin.shown_arguments[name]).rpartition(":")[0] if name in plugin.arguments else name
