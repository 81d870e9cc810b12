"""What suites, cells, attacks and defenses have in common: fields, checked once, frozen, and hashed into ids."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


def _existing(path: Path) -> Path:
    """An absolute path of a file that is there."""
    found = path.expanduser().resolve()
    if not found.is_file():
        raise ValueError(f"there is no file {str(path)!r}")
    return found


File = Annotated[Path, AfterValidator(_existing)]
"""A file that an attack or a defense reads, such as weights: its content is part of a cell's identity, its path is not.

    class Masked(dpbench.Defense):
        mask: dpbench.File = Path(__file__).with_name("mask.pth")
"""


class Parameters(BaseModel):
    """Frozen, and strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    later: ClassVar[tuple[str, ...]] = ()
    """Fields that came later: left out at their defaults, so that ids that were given before stay valid."""

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = dump(self)
        for name in self.later:
            if getattr(self, name) == type(self).model_fields[name].default:
                fields.pop(name, None)
        return fields
