"""What the engine must know of a plug-in without importing it, as JSON values."""

from __future__ import annotations

import inspect
import json
import typing
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from dpbench.contract.attack import Attack
from dpbench.contract.dataset import ImageSet, checked_classes
from dpbench.contract.defense import Defense
from dpbench.contract.metric import Metric
from dpbench.contract.plugin import Plugin
from dpbench.plugins import registry
from dpbench.plugins.configuring import describe_parameter


def described(sort: str, reference: str | None) -> list[dict[str, Any]]:
    """Facts of one plug-in, or of all that installed packages other than dpbench register.

    Args:
        sort: see `dpbench.plugins.registry.BASES`; of all sorts where there is no reference.
        reference: `path/to/file.py:Name`.

    Raises:
        DpbenchError: no such plug-in, or its code does not import.
    """
    if reference is not None:
        return [_facts(registry.find(sort, reference), reference)]
    found = [cls for known in registry.every().values() for cls in known.values()]
    return [_facts(cls, cls.name) for cls in found if not registry.is_own(cls)]


def _facts(cls: type[Plugin], reference: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "sort": registry.sort_of(cls),
        "reference": reference,
        "class": cls.__name__,
        "doc": inspect.cleandoc(cls.__doc__ or ""),
        "source": registry.source_of(cls),
        "fields": {name: _field(cls, name) for name in cls.model_fields},
    }
    for name in ("name", "version", "paper", "later"):
        facts[name] = getattr(cls, name)
    if issubclass(cls, Attack):
        facts |= {"needs": cls.needs, "floor": cls.floor, "combines": cls.combines, "budgets": cls.budgets}
    if issubclass(cls, Defense):
        facts["trained_on"] = cls.trained_on
    if issubclass(cls, Metric):
        facts["metric"] = cls.facts().model_dump(mode="json")
    if issubclass(cls, ImageSet):
        facts["classes"] = checked_classes(getattr(cls, "classes", ()), cls.name)
    return facts


def _field(cls: type[Plugin], name: str) -> dict[str, Any]:
    field = cls.model_fields[name]
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        default = None
    return {
        "default": json.loads(json.dumps(default, default=str)),
        "file": _is_file(field.annotation),
        "description": field.description or "",
        "range": describe_parameter(cls, name),
    }


def _is_file(annotation: Any) -> bool:
    if inspect.isclass(annotation) and issubclass(annotation, Path):
        return True
    return any(_is_file(inner) for inner in typing.get_args(annotation))
