"""Why a finished cell is to run again: what of its plug-ins is not what it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from dpbench.contract.spec import PluginSpec
from dpbench.suite.cell import CellSpec


def changes(to_run: Iterable[CellSpec], measured: Iterable[CellSpec]) -> list[str]:
    """One line for everything that changed: `mask.pth changed: 6 cells again`.

    Args:
        to_run: cells without a record.
        measured: cells with one, in the order in which they were measured.
    """
    before = {cell.asked: cell for cell in measured}
    counted: Counter[str] = Counter()
    for cell in to_run:
        known = before.get(cell.asked)
        if known is not None:
            counted.update(_changed(known.defense, cell.defense) | _changed(known.attack, cell.attack))
    return [f"{name} changed: {count} cell{'s' if count > 1 else ''} again" for name, count in sorted(counted.items())]


def _changed(before: PluginSpec, now: PluginSpec) -> set[str]:
    """Names of files; of a plug-in that has none its name."""
    names = {**before.files, **now.files}
    files = {_file_name(name, now) for name in names if before.files.get(name) != now.files.get(name)}
    return files or ({now.name} if before.source != now.source else set())


def _file_name(name: str, plugin: PluginSpec) -> str:
    """Of a parameter the name of the file that it is given."""
    return str(plugin.shown_arguments[name]).rpartition(":")[0] if name in plugin.arguments else name
