"""What there is, as plain data for `dpbench list`."""

from __future__ import annotations

import fnmatch
import inspect
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpbench.contract.attack import Attack
from dpbench.contract.metric import Metric
from dpbench.contract.plugin import Plugin
from dpbench.errors import unknown
from dpbench.plugins.configuring import limits
from dpbench.plugins.registry import attacks, defenses, image_sets, metrics
from dpbench.plugins.sources import is_own

REQUIRED = "(to be given)"
"""Stands for the default of a parameter that has none."""

KINDS = ("attacks", "defenses", "metrics", "datasets", "backbones", "suites")

NEEDS = {
    "nothing": "the released features and its own images",
    "query": "also the client as a black box",
    "weights": "also the client's weights",
}


def listing(kind: str, pattern: str = "") -> list[dict[str, Any]]:
    """Entries of one kind whose name matches a shell pattern: JSON values.

    Backbones with a pattern show their split points, which takes a moment for each.

    Raises:
        DpbenchError: no name matches.
    """
    if kind == "backbones":
        return _backbones(pattern)
    entries = {
        "attacks": lambda: [_plugin(cls) for cls in attacks().values()],
        "defenses": lambda: [_plugin(cls) for cls in defenses().values()],
        "metrics": lambda: [_metric(cls) for cls in metrics().values()],
        "datasets": _datasets,
        "suites": _suites,
    }[kind]()
    found = [entry for entry in entries if fnmatch.fnmatchcase(entry["name"], pattern or "*")]
    if pattern and not found:
        raise unknown(kind.removesuffix("s"), pattern, [entry["name"] for entry in entries])
    return found


def _plugin(cls: type[Plugin]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": cls.name,
        "about": (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " "),
        "version": cls.version,
        "parameters": {
            name: {
                "default": REQUIRED if field.is_required() else field.get_default(call_default_factory=True),
                "about": field.description or "",
                "range": limits(cls)[name],
            }
            for name, field in cls.model_fields.items()
        },
        "paper": cls.paper,
    }
    if issubclass(cls, Attack):
        entry["needs"] = f"{cls.needs}: {NEEDS[cls.needs]}"
        entry["floor"] = cls.floor
    return entry


def _metric(cls: type[Metric]) -> dict[str, Any]:
    facts = cls.facts()
    low, high = facts.range
    read = f"{facts.closer} is closer, from {low:g} to {high:g}; the gate tolerates {facts.tolerance:g}"
    return _plugin(cls) | {"read": read}


def _datasets() -> list[dict[str, Any]]:
    from dpbench.data.datasets import known_datasets

    further = [_plugin(cls) for cls in image_sets().values() if not is_own(cls)]
    return [*(vars(info) for info in known_datasets()), *further]


def _suites() -> list[dict[str, Any]]:
    from dpbench.suite.files import built_in_suites, parse_toml

    contents = [parse_toml(text, origin=name) for name, text in built_in_suites().items()]
    return [{"name": content["name"], "about": content["description"]} for content in contents]


def _backbones(pattern: str) -> list[dict[str, Any]]:
    from dpbench.models.backbones import backbone_names, describe_split_points

    names = backbone_names(pattern or "*")
    if not names:
        raise unknown("backbone", pattern, backbone_names())
    if not pattern:
        return [{"name": name} for name in names]
    return [{"name": name, "split_points": describe_split_points(name)} for name in names]


def print_listing(entries: list[dict[str, Any]], console: Console) -> None:
    """For people: the name and what it is; parameters and papers below it."""
    if entries and set(entries[0]) == {"name"}:
        console.print("\n".join(entry["name"] for entry in entries), highlight=False)
        return
    table = Table.grid(padding=(0, 2))
    for entry in entries:
        table.add_row(Text(entry["name"], style="bold"), _details(entry))
    console.print(table)


def _details(entry: dict[str, Any]) -> Text:
    text = Text(entry.get("about", ""))
    if "split_points" in entry:
        text.append(", ".join(entry["split_points"]))
    if "read" in entry:
        text.append(f"\n{entry['read']}", style="cyan")
    if "needs" in entry:
        text.append(f"\nneeds {entry['needs']}", style="cyan")
    parameters = entry.get("parameters") or {}
    for name, parameter in parameters.items():
        if isinstance(parameter, dict):
            limits = f" ({parameter['range']})" if parameter["range"] else ""
            text.append(f"\n  {name} = {parameter['default']}{limits}", style="green")
            text.append(f"  {parameter['about']}", style="dim")
        else:
            text.append(f"\n  {name}", style="green")
            text.append(f"  {parameter}", style="dim")
    if entry.get("paper"):
        text.append(f"\n  {entry['paper']}", style="dim italic")
    return text
