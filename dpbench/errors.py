"""What reaches a user as a single line: the one exception that is meant to, and others put into words."""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from dpbench.text.plain_values import LONGEST, storable_text

DEBUG = "DPBENCH_DEBUG"
"""The environment variable that shows tracebacks, as `dpbench --debug` does; processes that are started inherit it."""


class DpbenchError(Exception):
    """Input that cannot be used: what was expected, what came, what to do. The CLI exits with status 2.

    >>> dpbench.run("quik")
    Traceback (most recent call last):
    ...
    dpbench.errors.DpbenchError: unknown suite 'quik'; did you mean 'quick'? known: ...
    """


def unknown(kind: str, name: str, known: Iterable[str]) -> DpbenchError:
    """An error for a name that is not there, with the nearest name that is."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    suggestion = f" did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
    return DpbenchError(f"unknown {kind} {name!r};{suggestion} known: {shown or '(none)'}")


def is_interrupt(error: BaseException) -> bool:
    """Whether somebody stops the run (Ctrl-C); all else that a plug-in raises, `sys.exit` too, fails its cell alone."""
    return type(error) is KeyboardInterrupt


def reason(error: BaseException) -> str:
    """One line: the message, and of any other than a `DpbenchError` its type and where it was raised."""
    try:
        text = storable_text(" ".join(str(error)[:LONGEST].split()))
    except Exception:  # __str__ of a plug-in's own exception may raise in its turn
        text = "(its message cannot be shown)"
    if isinstance(error, DpbenchError):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return storable_text(f"{type(error).__name__}: {text}{where}")


def debug(error: BaseException) -> None:
    """The whole traceback on stderr, where `dpbench --debug` or the environment variable `DEBUG` asks for it."""
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        traceback.print_exception(error, file=sys.stderr)
