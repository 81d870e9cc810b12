"""Records as JSON files: written whole, as they will be read, and sealed with a digest of their content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pydantic
from pydantic import BaseModel

from dpbench.errors import DpbenchError
from dpbench.machine.writing import write_atomically
from dpbench.text.plain_values import storable_text
from dpbench.text.shown_text import clean

R = TypeVar("R", bound=BaseModel)

Wrong = Callable[[R], list[str]]
"""Function from a record to what in it cannot be true, a phrase for each: see `dpbench.records.ranges`."""

AGAIN = "delete it and run the suite again, which redoes that part alone"


class NewerSchema(DpbenchError):
    """A record written by a newer dpbench: not to be overwritten."""


class Unstorable(DpbenchError):
    """Raised for a record that, once written, could not be read again."""


def digest_of(content: dict[str, Any]) -> str:
    """SHA-256 in hex over a record as JSON, without its digest, independent of the order of its keys.

    It finds damage and careless edits. It does not prove who wrote a record: whoever changes one can compute it anew.
    """
    told = {name: value for name, value in content.items() if name != "digest"}
    return hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def content_of(record: R, wrong: Wrong[R]) -> dict[str, Any]:
    """A record as the JSON that is stored.

    Raises:
        Unstorable: it holds what JSON cannot say, or what is refused when it is read.
    """
    try:
        content: dict[str, Any] = _storable(record.model_dump(mode="json", warnings="error"))
        again = type(record).model_validate_json(json.dumps(content, allow_nan=False))
    except pydantic.ValidationError as error:
        raise Unstorable(_first(error)) from error
    except (ValueError, TypeError, RecursionError) as error:  # pydantic's serialization errors are ValueErrors
        raise Unstorable(clean(error)) from error
    if found := wrong(again):
        raise Unstorable("; ".join(found))
    return content


def _storable(value: Any) -> Any:
    if isinstance(value, dict):
        return {storable_text(str(name)): _storable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(one) for one in value]
    return storable_text(value) if isinstance(value, str) else value


def write_json(path: Path, record: R, wrong: Wrong[R]) -> None:
    """Store a record of any kind, atomically.

    Args:
        path: of the file.
        record: of any kind.
        wrong: what is asked when it is read.

    Raises:
        Unstorable: it could not be read again. Nothing is written.
    """
    content = content_of(record, wrong)
    sealed = {**content, "digest": digest_of(content)}
    text = json.dumps(sealed, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # one line per list of figures; inside JSON strings there are no line breaks to lose
    text = re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\s*\n\s*", " ", found.group()), text)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_sealed(path: Path, kind: type[R], *, schema: int, wrong: Wrong[R]) -> tuple[R, bool]:
    """A record of any kind from its file; see `parse_sealed`.

    Raises:
        DpbenchError: the file cannot be read, or as `parse_sealed`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DpbenchError(f"record {path} cannot be read: {error}; delete it and run the suite again") from error
    return parse_sealed(text, kind, place=str(path), again=AGAIN, schema=schema, wrong=wrong)


def parse_sealed(text: str, kind: type[R], *, place: str, again: str, schema: int, wrong: Wrong[R]) -> tuple[R, bool]:
    """A record of any kind from its JSON, and whether it has a digest: those of before had none.

    Args:
        text: as it is stored.
        kind: what is expected in it.
        place: where it stands, for messages.
        again: what to do about one that is damaged.
        schema: the newest that is understood, and the first whose records are all sealed.
        wrong: says what in a record cannot be.

    Raises:
        DpbenchError: the text is cut short or altered, is no such record, holds what cannot be, or was written by a
            newer dpbench.
    """
    try:
        content = json.loads(text, parse_constant=_refuse)
        if not isinstance(content, dict):
            raise ValueError("expected a JSON object")
    except (ValueError, RecursionError) as error:
        raise _damaged(place, f"the file: {clean(error)}", again) from error
    version, digest = content.get("schema_version", schema), content.pop("digest", None)
    if not isinstance(version, int) or isinstance(version, bool):
        raise _damaged(place, "schema_version: expected a whole number", again)
    if version > schema:
        raise NewerSchema(f"record {place} has schema {version}, this dpbench reads up to {schema}; upgrade dpbench")
    try:
        record = kind.model_validate_json(json.dumps(content))
    except pydantic.ValidationError as error:
        raise _damaged(place, _first(error), again) from error
    if digest is None and version == schema:
        raise DpbenchError(f"record {place} was altered: it has no digest, which every record of its time has; {again}")
    if digest is not None and digest != digest_of(content):
        raise DpbenchError(f"record {place} was altered or damaged: its content does not fit its digest; {again}")
    if found := wrong(record):
        raise DpbenchError(f"record {place} holds what cannot be ({'; '.join(found)}); {again}")
    return record, digest is not None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _first(error: pydantic.ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the file"
    return clean(f"{where}: {first['msg']}")


def _damaged(place: str, reason: str, again: str) -> DpbenchError:
    return DpbenchError(f"record {place} is cut short or damaged ({reason}); {again}")


def readable(paths: Iterable[Path], read: Callable[[Path], R]) -> Iterator[R]:
    """The records that are there and whole; what is cut short is left to be measured again.

    Raises:
        NewerSchema: one was written by a newer dpbench.
    """
    for path in paths:
        if not path.is_file():
            continue
        try:
            yield read(path)
        except NewerSchema:
            raise
        except DpbenchError:
            continue
