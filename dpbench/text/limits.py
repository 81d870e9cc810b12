"""What the values of a model's fields may be, read from its JSON schema."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

SIGNS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}


class _Lenient(GenerateJsonSchema):
    """Fields of types that JSON does not know have no limits; they are no error."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default", "skipped-discriminator"}  # noqa: RUF012

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        return {}


def fields_of(model: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """Field -> its JSON schema: `description`, `minimum`, `format` and so on."""
    properties: dict[str, dict[str, Any]] = model.model_json_schema(schema_generator=_Lenient).get("properties", {})
    return properties


def limits_of(field: dict[str, Any]) -> str:
    """The range of a field in words, from its JSON schema: `>= 0, <= 1`; empty where it has none."""
    choices = (field, *field.get("anyOf", []))  # a field that may be null has its limits in one of two choices
    return ", ".join(f"{sign} {choice[key]}" for choice in choices for key, sign in SIGNS.items() if key in choice)
