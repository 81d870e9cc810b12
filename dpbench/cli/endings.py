"""How a command ends: an exit status and, where something went wrong, one line on stderr."""

from __future__ import annotations

import errno
import inspect
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from dpbench.errors import DpbenchError, debug, is_interrupt, reason
from dpbench.text.shown_text import ERROR_LIMIT, clean
from dpbench.text.terminal import prepare_streams, unwritten

UNUSABLE = 2
BROKEN_PIPE = 128 + 13
"""As a shell reports a program that wrote to a reader who had left; Windows has no such signal."""

STATUSES = (
    "Exit status: 0 done; 1 some cells failed, or the gate says no; 2 unusable input, a full disk, or a fault: one "
    "line on stderr says what; 130 interrupted, 143 terminated: what is finished is kept, and the same command goes on."
)

GO_ON = "what is finished is kept: run the same command again to go on"

_STOPS = ("SIGINT", "SIGTERM", "SIGHUP")
"""Signals that stop a command: Ctrl-C and what does the same."""

_ONCE_SECONDS = 1.0
"""A terminal and a program between may both pass on one Ctrl-C: so soon after the first it is the same."""

_stopped: list[KeyboardInterrupt] = []
"""What a signal has raised; a library that is loading may swallow it, and end in an error of its own."""

_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Verbs(TyperGroup):
    """The commands of dpbench: whatever is raised in one ends as a line and a status, never as a traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Takes `--debug` behind the command too: it is added to a line that is there already."""
        if "--debug" in args:
            args = ["--debug", *(arg for arg in args if arg != "--debug")]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what it raises becomes a line and a status, see `ending`."""
        try:
            return super().invoke(ctx)
        except BaseException as error:
            if isinstance(error, typer.Abort) or hasattr(error, "exit_code"):  # an ending already, or wrong usage
                raise
            raise typer.Exit(ending(error)) from error


def reflowed(command: Callable[..., Any] | None) -> str:
    """The docstring of a command as its help: a line each paragraph, which the terminal breaks where it ends."""
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def run_to_the_end(app: typer.Typer) -> None:
    """Run the command line; always ends the process, see `STATUSES`."""
    prepare_streams()
    with _stoppable():
        try:
            try:
                app()
            finally:
                failed = unwritten()
                if failed is not None:
                    raise failed
        except (Exception, KeyboardInterrupt) as error:
            sys.exit(ending(error))


@contextmanager
def _stoppable() -> Iterator[None]:
    """Signals that stop a process arrive as a `KeyboardInterrupt`, which holds the number of all but Ctrl-C.

    A second one ends the process where it stands: what it was about to tidy up may be what hangs.
    """
    owner = os.getpid()
    since = 0.0
    _stopped.clear()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker: it has nothing to keep
            os._exit(128 + number)
        nonlocal since
        if not _stopped:
            since = time.monotonic()
            _stopped.append(KeyboardInterrupt() if number == signal.SIGINT else KeyboardInterrupt(number))
            raise _stopped[0]
        if time.monotonic() - since > _ONCE_SECONDS:
            os.write(2, f"dpbench: stopped at once; {GO_ON}\n".encode())
            os._exit(128 + number)

    signals = [getattr(signal, name) for name in _STOPS if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        signals = []
    # one that is ignored, as by nohup, stays so
    previous = {one: signal.signal(one, stop) for one in signals if signal.getsignal(one) != signal.SIG_IGN}
    try:
        yield
    finally:
        for one, handler in previous.items():
            signal.signal(one, handler)


def ending(error: BaseException) -> int:
    """Say in one line on stderr what ended a command; returns the exit status."""
    unwritten()
    if isinstance(error, BrokenPipeError) or _by_broken_pipe(error):
        return BROKEN_PIPE  # `dpbench ... | head`: the reader has what it wanted
    debug(error)
    if _stopped and not isinstance(error, (DpbenchError, OSError)):
        error = _stopped[0]
    with suppress(OSError):
        print(f"dpbench: {clean(_line(error), ERROR_LIMIT)}", file=sys.stderr, flush=True)
    if is_interrupt(error):
        return 128 + (error.args[0] if error.args else signal.SIGINT)
    return UNUSABLE


def _by_broken_pipe(error: BaseException) -> bool:
    """Whether it is how rich, which prints the help, ends where nobody reads any more."""
    return isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError)


def _line(error: BaseException) -> str:
    if isinstance(error, DpbenchError):
        return str(error)
    if is_interrupt(error):
        return f"{'terminated' if error.args else 'interrupted'}; {GO_ON}"
    if isinstance(error, OSError):
        where = f"{error.filename if error.filename is not None else 'output'}: "
        advice = f"; free some space; {GO_ON}" if error.errno in _ROOM else ""
        return f"{where}{error.strerror or reason(error)}{advice}"
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
        return f"memory ran out ({reason(error)}); use smaller images, a smaller --batch-size or more memory; {GO_ON}"
    if isinstance(error, RecursionError):
        return f"the input is nested too deeply ({reason(error)})"
    if isinstance(error, SystemExit):
        return f"code of a plug-in or a library wanted to end dpbench ({reason(error)}); {GO_ON}"
    return f"{reason(error)}; not expected, --debug shows the traceback; {GO_ON}"
