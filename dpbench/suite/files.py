"""Suite files: the built-in ones by name, others by path; what is wrong in one, in a line."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

import pydantic

from dpbench.contract.spec import Spec
from dpbench.errors import DpbenchError, unknown
from dpbench.text.shown_text import clean

S = TypeVar("S", bound=Spec)

SHOWN = 120
"""Characters of a refused value that a message shows."""

LONGEST = 1_000_000
"""Most bytes that a suite file may have: a longer one is no suite file."""


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
    path = Path(name)
    if path.suffix == ".toml" or "/" in name:
        return _file_text(path, name)
    texts = built_in_suites()
    if name not in texts:
        raise unknown("suite", name, texts)
    return texts[name]


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
