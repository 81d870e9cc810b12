"""Files written whole or not at all, and what killed writers left behind.

Devices and pipes are written through, links are followed to what they name.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from dpbench.errors import DpbenchError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

OF_DISKS = (*FULL, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
"""Errors that a disk, or a folder that is gone, gives; libraries wrap them in exceptions of their own."""

TEMPORARY = re.compile(r"^\.dpbench-(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}(\.[A-Za-z0-9]+)?$")
"""Names of files that are being written: on which machine, and by which process."""

OLD_SECONDS = 24 * 3600
"""Nobody writes one file for so long: after that a temporary file is stale, whoever began it."""


class Unwritable(DpbenchError):
    """The disk is full or does not take files: no part of a run could go on."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place: whole, or not at all.

    Where `path` is a link, what it names is replaced. A device or a pipe (`/dev/stdout`, `/dev/null`, a FIFO) is
    written through, and stays what it is.

    Args:
        path: of a file, which may be there already; its folder is made.
        write: is called with the path of an empty file that ends as `path` does.

    Raises:
        Unwritable: the disk is full or not writable. Nothing that was there is lost.
        DpbenchError: `path` is a folder.
    """
    if path.is_dir():
        raise DpbenchError(f"{path} is a folder; give the name of a file, such as {path / 'FILE'}")
    if _written_through(path):
        with _disk_errors(path), tempfile.TemporaryDirectory(prefix="dpbench-") as folder:
            whole = Path(folder) / f"whole{path.suffix}"
            write(whole)
            _write_through(whole, path)
        return
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    with _disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(_temporary_name(target.suffix))
        try:
            temporary.touch(mode=0o600, exist_ok=False)
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o644)
            temporary.replace(target)
        finally:
            with contextlib.suppress(OSError):  # the error that led here says more
                temporary.unlink(missing_ok=True)


def write_changed(path: Path, text: str) -> None:
    """Write a text as UTF-8, unless the file holds it already: see `write_atomically`."""
    content = text.encode()
    with contextlib.suppress(OSError):
        if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
            return
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _written_through(path: Path) -> bool:
    """Whether it is a device, a pipe or a socket, or a name for what a process has open."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    # a file that is open as /dev/stdout would be replaced behind the back of who opened it
    return not stat.S_ISREG(mode) or path.absolute().parts[1:2] in (("dev",), ("proc",))


def _write_through(whole: Path, path: Path) -> None:
    sys.stdout.flush()  # what was printed before comes before, where the path is the standard output
    with whole.open("rb") as source, _opened(path) as sink:
        shutil.copyfileobj(source, sink)


def _opened(path: Path) -> BinaryIO:
    """The device or pipe, to write to; of this process's own output what is open already, which knows how far it is."""
    for number in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(path.stat(), os.fstat(number)):
                return os.fdopen(os.dup(number), "wb")
    return path.open("ab")


@contextlib.contextmanager
def _disk_errors(place: Path) -> Iterator[None]:
    """Turns what a disk refuses into one line that names the place, whichever library says it."""
    try:
        yield
    except DpbenchError:
        raise
    except Exception as error:
        code, said = _disk_error(error)
        if code is None:
            raise  # a fault of the writer, not of the disk
        full = code in FULL
        reason = "the disk is full" if full else f"it cannot be written ({said})"
        advice = "free some space" if full else "choose a writable folder"
        raise Unwritable(
            f"{place}: {reason}; {advice} and run the same command again: finished cells are kept"
        ) from error


def _disk_error(error: BaseException) -> tuple[int | None, str]:
    """The number and the text of what a disk said, also where it is wrapped; None where it said nothing.

    safetensors (Rust) and torch (C++) raise exceptions of their own, with the number or its text in the message.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno is not None:
            return seen.errno, seen.strerror or str(seen)
        number = re.search(r"\(os error (\d+)\)", str(seen))
        if number is not None:
            return int(number.group(1)), os.strerror(int(number.group(1)))
        for code in OF_DISKS:
            if os.strerror(code).lower() in str(seen).lower():
                return code, os.strerror(code)
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    # pillow and others raise an OSError without a number; still it is about a file
    return (errno.EIO, str(error)) if isinstance(error, OSError) else (None, "")


def _temporary_name(suffix: str) -> str:
    kept = suffix if re.fullmatch(r"\.[A-Za-z0-9]+", suffix) else ""
    return f".dpbench-{_machine()}-{os.getpid()}-{secrets.token_hex(4)}{kept}"


@functools.cache
def _machine() -> str:
    """Eight hex digits that differ where process numbers mean something else: other hosts, other containers."""
    try:
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbers = ""
    return hashlib.sha256(f"{platform.node()} {numbers}".encode()).hexdigest()[:8]


def sweep(folders: Iterable[Path]) -> int:
    """Remove the temporary files of writers that are no more; returns how many.

    A file of a process that lives is never touched, nor one of another machine before a day has passed.

    Args:
        folders: looked through with the folders in them; those that are not there hold nothing.
    """
    swept = 0
    for folder in folders:
        for path in (*folder.glob(".dpbench-*"), *folder.glob("*/.dpbench-*")):
            with contextlib.suppress(OSError):  # another run sweeps too, or it may not be removed
                if _stale(path):
                    path.unlink()
                    swept += 1
    return swept


def _stale(path: Path) -> bool:
    named = TEMPORARY.match(path.name)
    if named is None or path.is_symlink() or not path.is_file():
        return False
    changed = path.stat().st_mtime
    if time.time() - changed > OLD_SECONDS:
        return True
    return named["machine"] == _machine() and not _lives(int(named["process"]), since=changed)


def _lives(process: int, *, since: float) -> bool:
    """Whether the process that changed a file at `since` is there; its number may be another's by now."""
    try:
        return psutil.Process(process).create_time() <= since + 1
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def put_whole(files: Any, here: Path, name: str) -> None:
    """Copy a file, so that its name never stands for half of it: object stores do so, folders need a new name."""
    if not hasattr(files, "local_file"):
        files.put_file(str(here), name)
        return
    folder, _, last = name.rpartition("/")
    temporary = f"{folder}/.{secrets.token_hex(4)}-{last}"
    files.put_file(str(here), temporary)
    files.mv(temporary, name)
