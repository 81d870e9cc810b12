"""Suite files: the built-in ones by name, others by path; what is wrong in one, in a line."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

import pydantic

from dpbench.contract.spec import PLUS, Spec
from dpbench.errors import DpbenchError, unknown
from dpbench.text.shown_text import clean

S = TypeVar("S", bound=Spec)

SHOWN = 120
"""Characters of a refused value that a message shows."""

LONGEST = 1_000_000
"""Most bytes that a suite file may have: a longer one is no suite file."""


LONGEST_PATH = 4096

EMBEDDED = ("leaves", "spectra")
"""Data sets that come with dpbench: a folder of such a name is `./leaves`."""


def built_in_suites() -> dict[str, str]:
    """Name -> TOML text of the suites that ship with dpbench."""
    folder = resources.files("dpbench.suite") / "builtin"
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".toml")), key=lambda e: e.name)
    return {entry.name.removesuffix(".toml"): entry.read_text(encoding="utf-8") for entry in files}


def suite_text(name: str) -> str:
    """What a suite file holds: of a built-in suite by name, or of a TOML file by path.

    Raises:
        DpbenchError: there is none, or it cannot be read.
    """
    if is_file(name):
        return _file_text(Path(name), name)
    texts = built_in_suites()
    if name not in texts:
        raise unknown("suite", name, texts)
    return texts[name]


def is_file(name: str) -> bool:
    """Whether a suite is named by the path of its file."""
    return Path(name).suffix == ".toml" or "/" in name


def _file_text(path: Path, name: str) -> str:
    try:
        if path.is_dir():
            raise DpbenchError(f"suite file {name} is a folder; expected a TOML file")
        if not path.is_file():
            raise DpbenchError(
                f"there is no suite file {name}; expected a TOML file or one of the built-in "
                f"suites: {', '.join(built_in_suites())}"
            )
        if path.stat().st_size > LONGEST:
            raise DpbenchError(f"suite file {name} has over {LONGEST:,} bytes; expected a TOML file")
        return path.read_bytes().decode("utf-8-sig")  # editors on Windows mark files
    except OSError as error:
        raise DpbenchError(f"suite file {name} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DpbenchError(f"suite file {name} cannot be read: {error}; save it as UTF-8") from error


def parse_toml(text: str, *, origin: str) -> dict[str, Any]:
    """TOML text -> its tables; `origin` names it in messages."""
    try:
        return tomllib.loads(text.replace("\r\n", "\n"))
    except ValueError as error:  # of the parser, whose message has line and column, or of a number that it cannot take
        raise DpbenchError(f"{origin}: TOML syntax error: {error}") from error
    except RecursionError as error:
        raise DpbenchError(f"{origin}: TOML syntax error: nested too deeply") from error


def beside(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The tables of a suite file with its paths as they are seen from the working folder.

    A path that is not absolute is meant as seen from the file; where nothing lies there it stays, and is looked for in
    the working folder. Names of built-in things stay names.

    Args:
        content: from `parse_toml`.
        folder: where the file lies.
    """
    if folder == Path():
        return content
    found = dict(content)
    for table in ("dataset", "shifted"):
        if isinstance(content.get(table), dict):
            further = {key: _plugins_beside(value, folder) for key, value in content[table].items() if key != "name"}
            found[table] = _with(content[table], folder, "name", folders=True) | further
    if isinstance(content.get("backbones"), list):
        found["backbones"] = [_backbone_beside(entry, folder) for entry in content["backbones"]]
    if isinstance(content.get("backbone"), dict):
        found["backbone"] = _backbone_beside(content["backbone"], folder)
    return found | {key: _plugins_beside(content[key], folder) for key in _PLUGINS if key in content}


_PLUGINS = ("defenses", "attacks", "metrics", "entities", "transfer")
"""Keys of a suite file under which plug-ins are named, with parameters that may be files."""


def _backbone_beside(table: Any, folder: Path) -> Any:
    """A backbone whose network, server, weights and class embeddings may be files."""
    for key in ("name", "server", "weights", "class_embeddings"):
        table = _with(table, folder, key)
    return table


def _plugins_beside(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _plugins_beside(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plugins_beside(inner, folder) for inner in value]
    if isinstance(value, str) and PLUS in value:
        return PLUS.join(_path(part, folder, folders=False) for part in value.split(PLUS))
    return _path(value, folder, folders=False)


def _with(table: Any, folder: Path, key: str, *, folders: bool = False) -> Any:
    if not isinstance(table, dict) or key not in table:
        return table
    return table | {key: _path(table[key], folder, folders=folders)}


def _path(value: Any, folder: Path, *, folders: bool) -> Any:
    """A text that names a file, or a folder of images, as seen from a folder; anything else as it is."""
    if not isinstance(value, str) or "\0" in value or value.startswith("~"):
        return value
    file, colon, name = value.rpartition(":") if ".py:" in value else (value, "", "")
    if len(file) > LONGEST_PATH or not (folders or "." in file or "/" in file) or file in EMBEDDED:
        return value
    place = folder / file
    try:
        there = place.is_file() or (folders and place.is_dir())
    except OSError:  # no path at all
        return value
    return f"{place}{colon}{name}" if there else value


def validated(kind: type[S], content: dict[str, Any], *, origin: str) -> S:
    """The tables of a suite file -> a checked suite.

    Args:
        kind: the class of suites, such as `dpbench.suite.suite.Suite`.
        content: from `parse_toml`.
        origin: names the file in messages.

    Raises:
        DpbenchError: an unknown key (with a suggestion), a value that does not fit, parts that contradict each other.
    """
    try:
        return kind.model_validate(content)
    except pydantic.ValidationError as error:
        raise _explained(error, kind, origin) from error


def _explained(error: pydantic.ValidationError, kind: type[Spec], origin: str) -> DpbenchError:
    """The first thing that is wrong, in one line."""
    first = error.errors()[0]
    contradiction = first.get("ctx", {}).get("error")
    if isinstance(contradiction, DpbenchError):
        return DpbenchError(f"{origin}: {contradiction}")
    where = ".".join(str(part + 1) if isinstance(part, int) else part for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return unknown(f"key in {origin}:", where.rsplit(".", 1)[-1], _table_at(kind, first["loc"][:-1]).model_fields)
    came = "" if first["type"] == "missing" else f", got {clean(repr(first['input']), SHOWN)}"
    return DpbenchError(f"{origin}: {where}: {first['msg'][0].lower()}{first['msg'][1:]}{came}")


def _table_at(kind: type[Spec], place: Sequence[str | int]) -> type[Spec]:
    """The class of the table at a place in a suite file, such as `attacks`, 0."""
    for key in place:
        field = kind.model_fields.get(str(key))
        kind = next(_tables_in(field.annotation), kind) if field is not None else kind
    return kind


def _tables_in(annotation: Any) -> Iterator[type[Spec]]:
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        yield annotation
    for inner in get_args(annotation):
        yield from _tables_in(inner)
