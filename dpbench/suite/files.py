"""Suite files: the built-in ones by name, others by path; what is wrong in one, in a line."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import pydantic

from dpbench.contract.spec import Spec
from dpbench.errors import DpbenchError, unknown
from dpbench.text.shown_text import clean

SHOWN = 120
"""Characters of a value that does not fit."""

LONGEST = 1_000_000
"""Bytes of a suite file: what is longer is something else."""


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


def explain(
    error: pydantic.ValidationError, origin: str, tables: Mapping[str, type[Spec]], top: type[Spec]
) -> DpbenchError:
    """What is wrong with a suite file, in one line; `tables` and `top` say which keys there are."""
    first = error.errors()[0]
    where = ".".join(str(part + 1) if isinstance(part, int) else part for part in first["loc"])
    if first["type"] == "extra_forbidden":
        table = tables.get(str(first["loc"][0]), top) if len(first["loc"]) > 1 else top
        return unknown(f"key in {origin}:", where.rsplit(".", 1)[-1], table.model_fields)
    came = "" if first["type"] == "missing" else f", got {clean(repr(first['input']), SHOWN)}"
    return DpbenchError(f"{origin}: {where}: {first['msg'][0].lower()}{first['msg'][1:]}{came}")
