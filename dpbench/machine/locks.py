"""Locks, one file each: who makes something, so that nobody else makes it too.

Between processes of one machine the system holds the lock (`flock`) and drops it with the process that took it, however
that ends: no lock is ever stale. Between machines a lock is an object that says whose it is, and that its owner writes
again every few seconds: one that stays the same for too long is its owner's no more. Where a file system has no locks,
or cannot create a file only where there is none, everybody is let through: what is written is still whole, but may be
made twice.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

POLL_SECONDS = 0.1

BEAT_SECONDS = 15.0
"""So often the owner of a lock between machines writes it again."""

LEASE_SECONDS = 90.0
"""A lock that was not written again for so long, by the clock of who waits, has lost its owner."""


class Lock:
    """One lock, free at first.

    Args:
        path: of its file, which is there while somebody holds it; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def take(self) -> bool:
        """Take it now or not at all; False while another process, or another `Lock` of this one, holds it."""
        if fcntl is None:
            return True
        while True:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError:
                return True  # whoever writes there will say what is wrong
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                return False
            except OSError:  # a file system without locks
                os.close(file)
                return True
            if self._names(file):
                self._file = file
                return True
            os.close(file)  # who held it has removed it in the meantime

    def _names(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), self.path.stat())
        except OSError:
            return False

    def release(self) -> None:
        """Give it back, and remove its file."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            self.path.unlink()  # before it is free: afterwards the name may be another's
        with contextlib.suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_UN)  # a forked child may have it open too
        os.close(self._file)
        self._file = None


class SharedLock:
    """One lock between machines, free at first.

    Args:
        files: a file system of fsspec.
        name: of its file, which is there while somebody holds it; its folder is there.
    """

    def __init__(self, files: Any, name: str) -> None:
        self.files = files
        self.name = name
        self._owner = secrets.token_hex(8)
        self._beats = itertools.count()
        self._stopped = threading.Event()
        self._beating: threading.Thread | None = None
        self._seen: tuple[bytes, float] = (b"", 0.0)

    def take(self) -> bool:
        """Take it now or not at all; False while another holds it.

        Raises:
            OSError: the file system cannot be reached.
        """
        try:
            self._write("create")
        except FileExistsError:
            self._break_stale()
            return False
        except (NotImplementedError, TypeError, ValueError):
            return True  # it cannot create exclusively
        if not self._mine(self._read()):
            return False  # a file system that overwrites all the same: the last one has it
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._beating.start()
        return True

    def release(self) -> None:
        """Give it back, and remove its file, unless it is another's by now."""
        if self._beating is None:
            return
        self._stopped.set()
        self._beating.join()
        self._beating = None
        with contextlib.suppress(Exception):  # whoever waits finds it stale
            if self._mine(self._read()):
                self.files.rm_file(self.name)

    def _write(self, mode: str) -> None:
        self.files.pipe_file(self.name, f"{self._owner} {next(self._beats)}".encode(), mode=mode)

    def _read(self) -> bytes:
        try:
            return bytes(self.files.cat_file(self.name))
        except FileNotFoundError:
            return b""

    def _mine(self, content: bytes) -> bool:
        return content.startswith(self._owner.encode())

    def _beat(self) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            with contextlib.suppress(Exception):  # the next one may get through
                if not self._mine(self._read()):
                    return
                self._write("overwrite")

    def _break_stale(self) -> None:
        """Remove the lock where it has stayed the same for too long."""
        content, now = self._read(), time.monotonic()
        if content != self._seen[0]:
            self._seen = content, now
        elif now - self._seen[1] > LEASE_SECONDS and self._read() == content:
            with contextlib.suppress(FileNotFoundError):
                self.files.rm_file(self.name)


@contextlib.contextmanager
def held(
    lock: Path | SharedLock, waiting: Callable[[], object] = lambda: None, *, poll: float = POLL_SECONDS
) -> Iterator[None]:
    """Hold a lock, or the `Lock` of a path, once it is free; `waiting` is called where another has it."""
    own: Lock | SharedLock = Lock(lock) if isinstance(lock, Path) else lock
    if not own.take():
        waiting()
        while not own.take():
            time.sleep(poll)
    try:
        yield
    finally:
        own.release()
