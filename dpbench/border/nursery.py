"""Fresh processes: copies of one that has loaded torch and dpbench, and no plug-in that is not dpbench's own.

A process of this kind starts in milliseconds, where a new interpreter takes seconds, and no two share a thing but what
they are told. Where the system cannot copy processes, a new interpreter is started each time.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

Life = Callable[[BinaryIO, BinaryIO], None]

FORKS = hasattr(os, "fork") and hasattr(socket, "AF_UNIX") and hasattr(socket, "send_fds")

_START = "from dpbench.plugins.apart import guest; guest.{}({})"
"""What a new interpreter runs: beyond the border lies code of the rooms above, which this room does not import."""


@dataclass(frozen=True)
class Child:
    """A fresh process.

    Attributes:
        incoming: what it writes.
        outgoing: what it reads.
        pid: its number.
        ended: waits for its end; gives its exit status, negative for a signal, None where that is not known.
    """

    incoming: BinaryIO
    outgoing: BinaryIO
    pid: int
    ended: Callable[[], int | None]

    def kill(self) -> int | None:
        """End it, whatever it does; its exit status."""
        try:
            os.kill(self.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        except OSError:
            pass  # it ended by itself
        return self.ended()


def fresh() -> Child:
    """A process that runs `dpbench.plugins.apart.guest.serve`."""
    return _forked() if FORKS else _started()


def _environment() -> dict[str, str]:
    # threads that wait for work must not take the cores of the process that has some
    return {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


class _Nursery:
    """The process that is copied, and the socket on which it is asked to."""

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START.format("copies", theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the engine, which ends its children
            )
        self.lock = threading.Lock()

    def copy(self) -> Child:
        """A copy that has a socket of its own."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs, self.lock:
            socket.send_fds(self.control, [b"+"], [theirs.fileno()])
            pid = int.from_bytes(_exactly(self.control, 8), "little")
        stream = ours.makefile("rwb", buffering=1 << 20)
        ours.close()  # the stream keeps it open
        return Child(stream, stream, pid, lambda: self.status(pid))  # type: ignore[arg-type]

    def status(self, pid: int) -> int | None:
        """How a copy ended, once it has."""
        try:
            with self.lock:
                self.control.sendall(b"?" + pid.to_bytes(8, "little"))
                return int.from_bytes(_exactly(self.control, 8), "little", signed=True)
        except OSError:
            return None

    def close(self) -> None:
        """End it, and with it its copies."""
        self.control.close()
        self.process.kill()
        self.process.wait()


_nursery: _Nursery | None = None
_starting = threading.Lock()


def _forked() -> Child:
    global _nursery
    with _starting:
        if _nursery is None or _nursery.process.poll() is not None:
            _nursery = _Nursery()
            atexit.register(_nursery.close)
    return _nursery.copy()


def _started() -> Child:
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _START.format("alone", "")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=_environment(),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    return Child(process.stdout, process.stdin, process.pid, process.wait)  # type: ignore[arg-type]


def _exactly(connection: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        more = connection.recv(count - len(content))
        if not more:
            raise ConnectionError("the process that makes processes is gone")
        content += more
    return content


def copies(control: int, life: Life) -> None:
    """The main loop of the process that is copied.

    Args:
        control: its end of the socket.
        life: what a copy does, from the stream that it reads and the one that it writes.
    """
    with socket.socket(fileno=control) as connection:
        while True:
            try:
                request, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
            except OSError:
                return
            if not request:
                return
            if request == b"?":
                pid = int.from_bytes(_exactly(connection, 8), "little")
                connection.sendall(_waited(pid).to_bytes(8, "little", signed=True))
                continue
            pid = os.fork()
            if pid == 0:
                connection.close()
                _die_with_parent()
                with socket.socket(fileno=descriptors[0]) as own:
                    stream: Any = own.makefile("rwb", buffering=1 << 20)
                _leave(life, stream, stream)
            os.close(descriptors[0])
            connection.sendall(pid.to_bytes(8, "little"))


def alone(life: Life) -> None:
    """The whole life of a process that was started anew: it is spoken to through its standard streams."""
    incoming = os.fdopen(os.dup(0), "rb")
    outgoing = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _leave(life, incoming, outgoing)


def _leave(life: Life, incoming: BinaryIO, outgoing: BinaryIO) -> None:
    """Live, then end without what a plug-in has registered for the end."""
    status = 1
    try:
        life(incoming, outgoing)
        status = 0
    finally:
        os._exit(status)


def _waited(pid: int) -> int:
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return 0
    return os.waitstatus_to_exitcode(status)


def _die_with_parent() -> None:
    """On Linux, a process ends with the one that made it, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
