"""Locks between processes, one file each: who makes something, so that nobody else makes it too.

The system holds the lock (`flock`) and drops it with the process that took it, however that ends: no lock is ever
stale. Where a file system has none, everybody is let through: what is written is still whole, but may be made twice.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

POLL_SECONDS = 0.1


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


@contextlib.contextmanager
def held(path: Path, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the lock `path`, once it is free; `waiting` is called where another process has it."""
    lock = Lock(path)
    if not lock.take():
        waiting()
        while not lock.take():
            time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()
