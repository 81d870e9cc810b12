"""What is printed, and where: streams that take any text, and consoles that say so when nobody reads any more."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from dpbench.text.shown_text import clean

if TYPE_CHECKING:
    from rich.console import Console

PLAIN = {"\u2248": "~", "\u2026": "..."}
"""What a stream that cannot hold a character shows in its place; for others its escape, as `\\udce9`."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text), error.end


def prepare_streams() -> None:
    """Make printing safe from here on: a character that a stream cannot hold, or a closed stream, raises nothing."""
    codecs.register_error("dpbench.plain", _plain)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by who started us; print(file=None) would go to the other one
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="dpbench.plain")


def unwritten() -> OSError | None:
    """Why standard output does not take what was printed, None where it does; what it does not take is dropped."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # else the interpreter tries once more when it ends, and says so in two lines of its own
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None


WIDE = 240
"""Columns where nobody looks through a window: in files, pipes and the logs of CI services."""


def _width() -> int | None:
    """Columns to print in: None for those of the terminal; `COLUMNS` decides wherever it is set."""
    if os.environ.get("COLUMNS", "").isdecimal():
        return None  # rich reads it
    return None if sys.stdout.isatty() else WIDE


def make_console() -> Console:
    """A rich console on standard output."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise  # the BrokenPipeError that is being handled; rich would exit with status 1

    return Plain(width=_width())


@contextlib.contextmanager
def working(console: Console) -> Iterator[Callable[[str], None]]:
    """Show that something is done, until it is; gives a function that says what, in a short text."""
    from rich.text import Text

    with console.status("starting") as status:
        yield lambda text: status.update(Text(clean(text)))
