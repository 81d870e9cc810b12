"""What the engine must know of a plug-in without importing it, as JSON values."""

from __future__ import annotations

import inspect
import json
from typing import Any

from pydantic_core import PydanticUndefined

from dpbench.contract.attack import Attack
from dpbench.contract.dataset import ImageSet, checked_classes
from dpbench.contract.defense import Defense
from dpbench.contract.metric import Metric
from dpbench.contract.plugin import Plugin
from dpbench.plugins import registry, sources
from dpbench.text.limits import fields_of, limits_of


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
    return [_facts(cls, cls.name) for cls in found if not sources.is_own(cls)]


def _facts(cls: type[Plugin], reference: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "sort": registry.sort_of(cls),
        "reference": reference,
        "class": cls.__name__,
        "doc": inspect.cleandoc(cls.__doc__ or ""),
        "source": sources.source_of(cls),
        "fields": {name: _field(cls, name, schema) for name, schema in fields_of(cls).items()},
    }
    for name in ("name", "version", "paper", "ids_skip_default"):
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


def _field(cls: type[Plugin], name: str, schema: dict[str, Any]) -> dict[str, Any]:
    default = cls.model_fields[name].get_default(call_default_factory=True, validated_data={})
    return {
        "default": None if default is PydanticUndefined else json.loads(json.dumps(default, default=str)),
        "file": '"format": "path"' in json.dumps(schema),
        "description": schema.get("description", ""),
        "range": limits_of(schema),
    }
