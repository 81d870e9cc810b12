"""Attacks and defenses by name: built in, from installed packages, or from a single file.

A plug-in registers when its module is imported: `@register` above the class. Installed packages are found through
the entry-point group `dpbench.plugins`; a file is named as `path/to/file.py:ClassName`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from dpbench.errors import DpbenchError, is_interrupt, reason, unknown
from dpbench.types import Attack, Defense, Plugin

GROUP = "dpbench.plugins"

P = TypeVar("P", bound=Plugin)
_attacks: dict[str, type[Attack]] = {}
_defenses: dict[str, type[Defense]] = {}


def register(cls: type[P]) -> type[P]:
    """Class decorator: make an `Attack` or a `Defense` known by its `name`.

    Raises:
        DpbenchError: the name is missing, taken, or the class is neither an attack nor a defense.
    """
    tables: dict[type[Plugin], dict[str, Any]] = {Attack: _attacks, Defense: _defenses}
    table = next((table for base, table in tables.items() if issubclass(cls, base)), None)
    if table is None:
        raise DpbenchError(f"{cls.__name__} is neither an Attack nor a Defense; derive it from one of them")
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not name:
        raise DpbenchError(f'{cls.__name__} has no name; add `name: ClassVar[str] = "..."` to the class')
    taken = table.get(name)
    if taken is not None and taken is not cls:
        raise DpbenchError(f"{name!r} is registered twice: by {_origin(taken)} and by {_origin(cls)}")
    table[name] = cls
    return cls


def _origin(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


@functools.cache
def load_plugins() -> None:
    """Import every installed plug-in once. One that does not import is an error that names its package."""
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            entry.load()
        except BaseException as error:  # a module may call sys.exit
            if is_interrupt(error) or isinstance(error, DpbenchError):
                raise
            raise DpbenchError(
                f"plug-in {entry.name!r} ({entry.value}) does not import: {reason(error)}; "
                "fix or uninstall the package that provides it"
            ) from error


def attacks() -> dict[str, type[Attack]]:
    """Every known attack by name."""
    load_plugins()
    return dict(sorted(_attacks.items()))


def defenses() -> dict[str, type[Defense]]:
    """Every known defense by name."""
    load_plugins()
    return dict(sorted(_defenses.items()))


def find_attack(name: str) -> type[Attack]:
    """The attack of that name, or the class in `path/to/file.py:Name`."""
    return _find(name, "attack", attacks(), Attack)  # type: ignore[type-abstract]


def find_defense(name: str) -> type[Defense]:
    """The defense of that name, or the class in `path/to/file.py:Name`."""
    return _find(name, "defense", defenses(), Defense)  # type: ignore[type-abstract]


def _find(name: str, kind: str, known: dict[str, type[P]], base: type[P]) -> type[P]:
    if ".py:" in name:
        return _from_file(name, kind, base)
    if name not in known:
        raise unknown(kind, name, known)
    return known[name]


def _from_file(reference: str, kind: str, base: type[P]) -> type[P]:
    file_name, _, class_name = reference.rpartition(":")
    path = Path(file_name).expanduser().resolve()
    if not path.is_file():
        raise DpbenchError(f"{kind} {reference!r}: there is no file {file_name}")
    module = _module_of(path, kind, reference)
    cls = getattr(module, class_name, None)
    if cls is None:
        here = [n for n, c in vars(module).items() if inspect.isclass(c) and c.__module__ == module.__name__]
        raise unknown(f"class in {path.name}", class_name, here)
    if not (inspect.isclass(cls) and issubclass(cls, base)):
        raise DpbenchError(f"{kind} {reference!r}: {class_name} is not a subclass of dpbench.{base.__name__}")
    return cls


def _module_of(path: Path, kind: str, reference: str) -> Any:
    name = f"dpbench_plugin_{path.stem}_{source_hash(path)}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise DpbenchError(f"{kind} {reference!r}: {path.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pydantic resolves annotations through sys.modules
    try:
        spec.loader.exec_module(module)
    except BaseException as error:  # a module may call sys.exit
        sys.modules.pop(name, None)
        if is_interrupt(error) or isinstance(error, DpbenchError):
            raise
        raise DpbenchError(f"{kind} {reference!r} does not import: {reason(error)}; fix {path.name}") from error
    return module


def source_hash(path: Path) -> str:
    """Twelve hex digits of a plug-in file's content: editing the file makes new cells."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def source_of(cls: type[Plugin]) -> str:
    """What identifies a plug-in's code in a cell: its integer version, and the content of a single file."""
    path = inspect.getsourcefile(cls)
    if cls.__module__.startswith("dpbench_plugin_") and path is not None:
        return f"v{cls.version}-{source_hash(Path(path))}"
    return f"v{cls.version}"


def configure(cls: type[P], arguments: dict[str, Any]) -> P:
    """An instance with checked parameters.

    Raises:
        DpbenchError: an unknown parameter (with a suggestion) or a value out of its range.
    """
    for key in arguments:
        if key not in cls.model_fields:
            raise unknown(f"parameter of {cls.name!r}", key, cls.model_fields)
    try:
        return cls(**arguments)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DpbenchError(
            f"{cls.name}: parameter {where} = {first['input']!r} does not fit: {first['msg']}; "
            f"{describe_parameter(cls, where)}"
        ) from error
    except BaseException as error:  # a validator of a plug-in's own may raise anything
        if is_interrupt(error):
            raise
        raise DpbenchError(f"{cls.name} cannot be made with {arguments}: {reason(error)}") from error


def describe_parameter(cls: type[Plugin], name: str) -> str:
    """One parameter in words: default and range."""
    field = cls.model_fields.get(name)
    if field is None:
        return ""
    bounds = [f"{sign} {getattr(m, key)}" for m in field.metadata for key, sign in _BOUNDS if hasattr(m, key)]
    limits = f" ({', '.join(bounds)})" if bounds else ""
    return f"{name} = {field.default!r}{limits}"


_BOUNDS = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
