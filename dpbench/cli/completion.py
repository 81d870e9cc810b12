"""What a shell completes: suites, plug-ins, backbones, runs' cells. Whatever goes wrong completes nothing."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections.abc import Callable, Iterable
from functools import wraps
from importlib import metadata, resources
from pathlib import Path
from typing import Any

MOST = 200
"""So many suggestions are more than anyone reads."""


def _quiet(found: Callable[..., Iterable[str]]) -> Callable[..., list[str]]:
    """Completion runs at every press of a key: an error in it would print into the line that is typed."""

    @wraps(found)
    def complete(*arguments: Any, **named: Any) -> list[str]:
        try:
            return list(found(*arguments, **named))[:MOST]
        except Exception:
            return []

    return complete


@_quiet
def suites(incomplete: str) -> Iterable[str]:
    """Built-in suites, and TOML files here."""
    folder, _, start = incomplete.rpartition("/")
    files = sorted(Path(folder or ".").glob("*.toml")) if "*" not in folder else []
    prefix = f"{folder}/" if folder else ""
    built_in = (file.name for file in (resources.files("dpbench.suite") / "builtin").iterdir())
    known = sorted(name.removesuffix(".toml") for name in built_in if name.endswith(".toml"))
    names = [*([] if folder else known), *(f"{prefix}{path.name}" for path in files)]
    return [name for name in names if name.startswith(f"{prefix}{start}")]


@_quiet
def attacks(incomplete: str) -> Iterable[str]:
    """Built-in attacks, without importing one: an import of torch takes longer than a press of a key may."""
    return _plugins("attacks", incomplete)


@_quiet
def defenses(incomplete: str) -> Iterable[str]:
    """Built-in defenses, likewise."""
    return _plugins("defenses", incomplete)


def _plugins(group: str, incomplete: str) -> list[str]:
    entry = next(e for e in metadata.entry_points(group="dpbench.plugins") if e.name == group)
    names: list[str] = []
    spec = importlib.util.find_spec(entry.value)  # looks, and imports nothing
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        for file in Path(folder).glob("[!_]*.py"):
            names += re.findall(r'^    name\b[^=\n]*= "([^"]+)"', file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return sorted(name for name in names if name.startswith(incomplete))


@_quiet
def backbones(incomplete: str) -> Iterable[str]:
    """Names of timm's, once something is typed: there are over a thousand."""
    if not incomplete:
        return []
    from dpbench.models.backbones import backbone_names

    return backbone_names(f"{incomplete}*")


@_quiet
def cells(ctx: Any, incomplete: str) -> Iterable[str]:
    """Labels of the cells of the suite that the line names: what `--only` picks by."""
    from dpbench.suite.files import parse_toml, suite_text

    named = str(ctx.params.get("suite") or "quick")
    content = parse_toml(suite_text(named), origin=named)
    names = {str(entry["name"]) for kind in ("defenses", "attacks") for entry in content.get(kind, ())}
    names |= {str(point) for entry in content.get("backbones", ()) for point in entry["split_points"]}
    names |= _ensemble(content.get("ensemble"))
    return sorted(name for name in names if name.startswith(incomplete))


def _ensemble(name: Any) -> set[str]:
    """The attacks of a pinned ensemble."""
    known = tomllib.loads((resources.files("dpbench.suite") / "ensembles.toml").read_text(encoding="utf-8"))
    return set(known.get(name, ()))


@_quiet
def shown(ctx: Any, incomplete: str) -> Iterable[str]:
    """Ids of the cells in the run directory that the line names: what `dpbench show --cell` picks by."""
    folder = Path(str(ctx.params["directory"]))
    records = (file for place in ("records", "sharing") for file in sorted((folder / place).glob("*.json")))
    return [file.stem for file in records if file.stem.startswith(incomplete)]


@_quiet
def runs(incomplete: str) -> Iterable[str]:
    """Run directories under `dpbench-runs`, and boards here."""
    found = [*sorted(Path("dpbench-runs").glob("*/")), *sorted(Path().glob("*.csv"))]
    return [str(path) for path in found if str(path).startswith(incomplete)]
