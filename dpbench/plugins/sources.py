"""What a plug-in consists of: the code and the files that identify it, and whether dpbench vouches for them."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dpbench.contract.plugin import Plugin
from dpbench.machine import plugin_files
from dpbench.service.composition import Composition

OWN = ("dpbench", "dpbench_attacks", "dpbench_defenses")
"""Packages whose plug-ins dpbench vouches for: their version alone identifies them, and they run in the engine's own
process."""

HELD: dict[type[Plugin], str] = {}
"""Plug-ins that somebody holds, of no file and no package -> what identifies them: see `dpbench.notebook.held`."""


def is_own(cls: type[Plugin]) -> bool:
    """Whether dpbench vouches for a plug-in."""
    return cls.__module__.partition(".")[0] in OWN


def source_of(cls: type[Plugin]) -> str:
    """What identifies a plug-in's code in a cell: its integer version, and the content of what it was loaded from.

    Of a single file that is the file and what it uses of its folder, of an installed package the whole package.
    """
    from dpbench.plugins.stand_in import StandIn

    if cls in HELD:
        return f"v{cls.version}-{HELD[cls]}"
    if issubclass(cls, StandIn):
        return cls.source
    if issubclass(cls, Composition):
        return "+".join([f"v{cls.version}", *map(source_of, cls.classes)])
    plugin = plugin_files.loaded_from(cls.__module__)
    content = plugin.digest if plugin is not None else _content_of(cls.__module__.partition(".")[0])
    return f"v{cls.version}-{content}" if content else f"v{cls.version}"


def folder_of(cls: type[Plugin]) -> Path:
    """Where the package lies that a plug-in belongs to, or the file that it was loaded from."""
    plugin = plugin_files.loaded_from(cls.__module__)
    if plugin is not None:
        return plugin.path
    file = Path(sys.modules[cls.__module__.partition(".")[0]].__file__ or "")
    return file.parent if file.name == "__init__.py" else file


@functools.cache
def _content_of(package: str) -> str:
    """Twelve hex digits of an imported package's files; empty for dpbench's own, and for what has no files."""
    file = getattr(sys.modules.get(package), "__file__", None)
    if package in OWN or file is None or not os.path.isfile(file):
        return ""
    path = Path(file)
    return (plugin_files.folder_hash(path.parent) if path.name == "__init__.py" else plugin_files.file_hash(path))[:12]


def files_of(plugin: Plugin) -> dict[str, str]:
    """What a configured plug-in consists of and is given as files: name of a file of its folder, or of a parameter.

    Returns:
        Name -> hex digits of the SHA-256 of the content; empty for most.
    """
    from dpbench.plugins.stand_in import StandIn

    if isinstance(plugin, StandIn):
        code = plugin.code
    else:
        loaded = plugin_files.loaded_from(type(plugin).__module__)
        code = loaded.files if loaded is not None else {}
    return {**code, **{name: plugin_files.file_hash(path) for name, path in given_files(plugin).items()}}


def given_files(plugin: Plugin) -> dict[str, Path]:
    """The files that a configured plug-in is given, each under the place where it stands: `masks.0`, `weights.head`."""
    from dpbench.plugins.stand_in import StandIn

    if isinstance(plugin, StandIn):
        values = plugin.values
    else:
        values = {field: getattr(plugin, field) for field in type(plugin).model_fields}
    return {name: path for field, value in values.items() for name, path in _given(field, value)}


def brings_code(plugin: Plugin) -> bool:
    """Whether a plug-in is given a file of code to run: nobody vouches for that, whoever wrote the plug-in."""
    return any(path.suffix == ".py" for path in given_files(plugin).values())


def _given(name: str, value: Any) -> Iterator[tuple[str, Path]]:
    """The files in a parameter's value, each under the place where it stands: `masks.0`, `weights.head`."""
    if isinstance(value, Path):
        if value.is_file():
            yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _given(f"{name}.{key}", inner)
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from _given(f"{name}.{place}", inner)
