"""What attacks and defenses have in common: a name, a version, and parameters that are checked."""

from __future__ import annotations

import abc
import inspect
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from dpbench.errors import DpbenchError


def _existing(path: Path) -> Path:
    """An absolute path of a file that is there."""
    found = path.expanduser().resolve()
    if not found.is_file():
        raise ValueError(f"there is no file {str(path)!r}")
    return found


File = Annotated[Path, AfterValidator(_existing)]
"""A file that an attack or a defense reads, such as weights: its content is part of a cell's identity, its path is not.

    >>> class Masked(dpbench.Defense):
    ...     name = "masked"
    ...     mask: dpbench.File  # or, with a default: dpbench.File = Path(__file__).with_name("mask.pth")
    ...
    ...     def build(self, split):
    ...         return dpbench.ProtectedModel(split)
    >>> Masked(mask="tiny.toml").mask.name
    'tiny.toml'
"""


class Parameters(BaseModel):
    """Frozen, and strict about keys; numbers are finite, and a boolean is none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    ids_skip_default: ClassVar[tuple[str, ...]] = ()
    """Fields that are left out of the hash while at their defaults, so that ids from before they were there stay."""

    @model_validator(mode="before")
    @classmethod
    def _plain_numbers(cls, given: Any) -> Any:
        """`true` is no 1 and is refused as the word it is; -0.0, which would have another id, is 0.0."""
        if not isinstance(given, dict):
            return given
        fields = cls.model_fields
        return {key: _plain(value, fields[key].annotation) if key in fields else value for key, value in given.items()}

    @model_serializer(mode="wrap")
    def _without_skipped_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = dump(self)
        for name in self.ids_skip_default:
            if getattr(self, name) == type(self).model_fields[name].default:
                fields.pop(name, None)
        return fields


def _plain(value: Any, annotation: Any) -> Any:
    if isinstance(value, bool) and _mentions(annotation, int, float) and not _mentions(annotation, bool, Any, object):
        return str(value).lower()
    if isinstance(value, list):
        return [_plain(one, annotation) for one in value]
    return 0.0 if isinstance(value, float) and value == 0 else value


def _mentions(annotation: Any, *types: Any) -> bool:
    return annotation in types or any(_mentions(one, *types) for one in get_args(annotation))


class Plugin(Parameters):
    """What attacks and defenses have in common: a name, an integer version, parameters that are checked.

    Fields of a subclass are its parameters; give each a default and its range with `pydantic.Field`. Raise
    `version` whenever the figures change: it is part of a cell's identity.

    A class without a usable name is refused where it is defined. One that is only there to be derived from needs none:
    it leaves an abstract method, or lists `abc.ABC` among its bases.
    """

    model_config = ConfigDict(validate_default=True)  # a file that is the default is looked for too

    name: ClassVar[str]
    version: ClassVar[int] = 1
    paper: ClassVar[str] = ""

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuse what would make a parameter of a fact that all instances share, before pydantic does."""
        super().__init_subclass__(**options)
        facts = {name for base in cls.__mro__[1:] for name in getattr(base, "__class_vars__", ())}
        for name, annotation in inspect.get_annotations(cls).items():
            if name in facts and "ClassVar" not in str(annotation):
                kind = type(vars(cls).get(name, "")).__name__
                raise DpbenchError(
                    f"{cls.__name__}.{name} is declared as a parameter, but belongs to the class; write "
                    f"`{name}: ClassVar[{kind}] = ...`, or leave the annotation out"
                )

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """Refuse a class without a name, when its methods and parameters are known."""
        super().__pydantic_init_subclass__(**options)
        if not is_abstract(cls):
            _assert_named(cls)
        if type(cls.version) is not int or cls.version < 1:
            raise DpbenchError(f"{cls.__name__}.version is {cls.version!r}; expected a whole number from 1")

    def assert_at_hand(self) -> None:
        """Override where something outside dpbench is needed, such as weights; asked when a run is planned.

        Raises:
            DpbenchError: it is not on this machine; says how to get it.
        """
        return None


def is_abstract(cls: type) -> bool:
    """Whether a class is only there to be derived from: it leaves an abstract method, or lists `abc.ABC` as a base."""
    return inspect.isabstract(cls) or abc.ABC in cls.__bases__


def _assert_named(cls: type[Plugin]) -> None:
    name = getattr(cls, "name", None)
    advice = f'write `name = "..."` in the class {cls.__name__}'
    if name is None:
        raise DpbenchError(f"{cls.__name__} has no name; {advice}, or derive it from abc.ABC too if it is only a base")
    if not isinstance(name, str):
        raise DpbenchError(f"the name of {cls.__name__} is of type {type(name).__name__}; {advice}")
    if not name or not name.isprintable() or name != name.strip() or ".py:" in name:
        raise DpbenchError(
            f"the name of {cls.__name__} is {name!r}; expected printable text on one line that neither starts nor ends "
            "with a space, and holds no '.py:', which names a file"
        )
