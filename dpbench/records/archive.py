"""Records of a run as one compact file, NAME.jsonl.xz: a line that says what is in it, then a sealed record a line.

It comes from strangers: what it unpacks to is bounded, and each record is checked as any other.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from dpbench.errors import DpbenchError
from dpbench.machine.writing import write_atomically
from dpbench.records.record_files import digest_of
from dpbench.suite.names import short_name
from dpbench.text.shown_text import clean

ENDING = ".jsonl.xz"

MOST_BYTES = 1 << 30
"""What all lines of a file may come to once it is unpacked; published boards have 4 MB and less."""

MOST_OF_A_LINE = 1 << 26
"""Bytes of one record."""

MEMORY = 1 << 27
"""Bytes that unpacking may take; xz writes what takes 65 MiB at most, unless it is told otherwise."""

PIECE = 1 << 16

FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 24}]


class Head(BaseModel):
    """The first line."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    dpbench_records: Literal[1] = Field(description="the form of the file")
    folder: str = Field(max_length=100, description="where such records lie in a run directory: it tells the protocol")
    count: int = Field(ge=0, description="records that follow")


def is_archive(path: Path) -> bool:
    """Whether it is named like one; a folder is none."""
    return path.name.lower().endswith(ENDING) and not path.is_dir()


def write_archive(path: Path, folder: str, records: Sequence[str]) -> None:
    """Write records, each a JSON text, as one file; whole, or not at all. Equal records give equal bytes.

    Args:
        path: ends in .jsonl.xz.
        folder: where such records lie in a run directory.
        records: as they are stored, with their digests; see `_without_places`.

    Raises:
        Unwritable: the disk does not take it.
    """
    head = Head(dpbench_records=1, folder=folder, count=len(records))
    lines = [head.model_dump_json(), *(_on_one_line(text) for text in records)]
    content = lzma.compress("".join(f"{line}\n" for line in lines).encode(), check=lzma.CHECK_SHA256, filters=FILTERS)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _on_one_line(text: str) -> str:
    told = json.loads(text)
    named = _without_places(told)
    if named != told and "digest" in told:
        named["digest"] = digest_of(named)
    return json.dumps(named, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _without_places(told: Any, role: str = "") -> Any:
    """A record with folders of images by their own name: where they lay on a machine is nobody else's business."""
    if isinstance(told, dict):
        named = {key: _without_places(value, key) for key, value in told.items()}
        if role in ("dataset", "shifted") and _is_place(named.get("name")):
            named["name"] = short_name(named["name"])
        return named
    return [_without_places(one) for one in told] if isinstance(told, list) else told


def _is_place(name: Any) -> bool:
    return isinstance(name, str) and (PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute())


def head_of(path: Path) -> Head:
    """What a file says of itself.

    Raises:
        DpbenchError: it is none, or cannot be read.
    """
    return _head(next(_lines(path), b""), path)


def texts_of(path: Path) -> Iterator[str]:
    """The records of a file as JSON texts, one after another; nothing in them is checked yet.

    Raises:
        DpbenchError: it is cut short, damaged, larger than any such file, or not one at all.
    """
    lines = _lines(path)
    head, found = _head(next(lines, b""), path), 0
    for line in lines:
        found += 1
        if found > head.count:
            break
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise _unusable(path, f"record {found} is no text: {error}") from error
    if found != head.count:
        raise _unusable(
            path, f"it says that {head.count} records follow, and {'more' if found > head.count else found} do"
        )


def _head(line: bytes, path: Path) -> Head:
    try:
        return Head.model_validate_json(line)
    except pydantic.ValidationError as error:
        said = clean(error.errors()[0]["msg"])
        raise _unusable(path, f"its first line does not say which records follow: {said}") from error


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a packed file, without their ends; one at a time is held."""
    rest, told = b"", 0
    try:
        with path.open("rb") as file:
            for piece in _unpacked(file):
                told += len(piece)
                *whole, rest = (rest + piece).split(b"\n")
                if told > MOST_BYTES or len(rest) > MOST_OF_A_LINE:
                    raise _unusable(path, "it unpacks to more than any run holds")
                yield from whole
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise _unusable(path, getattr(error, "strerror", None) or str(error)) from error
    if rest:
        raise _unusable(path, "it ends within a record")


def _unpacked(file: BinaryIO) -> Iterator[bytes]:
    """The content of one xz stream in pieces, so that a small file cannot fill the memory."""
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY)
    while not unpacker.eof:
        packed = file.read(PIECE) if unpacker.needs_input else b""
        if unpacker.needs_input and not packed:
            raise EOFError("it is cut short")
        yield unpacker.decompress(packed, max_length=PIECE)
    if unpacker.unused_data or file.read(1):
        raise lzma.LZMAError("something follows its end")


def _unusable(path: Path, reason: str) -> DpbenchError:
    return DpbenchError(
        f"{path} cannot be read as records ({reason}); expected what `dpbench leaderboard RUN --output NAME{ENDING}` "
        "wrote"
    )
