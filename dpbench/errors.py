"""What reaches a user as a single line: the one exception that is meant to, and others put into words."""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from dpbench.text.plain_values import LONGEST, storable_text
from dpbench.text.shown_text import clean

DEBUG = "DPBENCH_DEBUG"
"""The environment variable that shows tracebacks, as `dpbench --debug` does; processes that are started inherit it."""


class DpbenchError(Exception):
    """Input that cannot be used: what was expected, what came, what to do. The CLI exits with status 2.

    >>> dpbench.run("quik")
    Traceback (most recent call last):
    ...
    dpbench.errors.DpbenchError: unknown suite 'quik'; did you mean 'quick'? known: ...
    """

    far: str = ""
    """Where it was raised, if in another process: what `traced` gave there."""


class NoGradients(DpbenchError):
    """A client that answers queries, and through which no gradient passes."""


class NotCounted(DpbenchError):
    """Work that a program does, and that nothing here can count."""


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
        for far in (one.far for one in _chain(error) if isinstance(one, DpbenchError) and one.far):
            print(f"in a process of its own:\n{far}\n", file=sys.stderr)
        traceback.print_exception(error, file=sys.stderr)


DEEPEST_FRAMES = 24
"""Frames of one exception that `traced` shows: the outermost few, and those next to where it was raised."""

LONGEST_TRACE = 6000
"""Characters of `traced`: of a longer text its end."""


def traced(error: BaseException) -> str:
    """Where an exception was raised, as text to keep in a record: bounded, cleaned, without the folders of a machine.

    A line for each frame, outermost first, and one for what was raised; exceptions that led to it come before it.
    """
    parts = []
    for one in reversed(_chain(error)):
        frames = [_frame(frame) for frame in traceback.extract_tb(one.__traceback__)]
        if len(frames) > DEEPEST_FRAMES:
            frames = [*frames[:4], f"... {len(frames) - DEEPEST_FRAMES} more", *frames[4 - DEEPEST_FRAMES :]]
        far = one.far.splitlines() if isinstance(one, DpbenchError) else []
        parts.append("\n".join([*far, *frames, clean(f"{type(one).__name__}: {reason(one)}")]))
    return cleaned_trace("\n\n".join(parts))


def cleaned_trace(text: str) -> str:
    """The end of a traceback, whoever wrote it, as lines that do nothing but be read."""
    lines = [clean(line) for line in text[-LONGEST_TRACE:].splitlines()]
    return "\n".join(lines)[-LONGEST_TRACE:].strip()


def _chain(error: BaseException) -> list[BaseException]:
    """An exception and those that led to it, at most four."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain and len(chain) < 4:
        chain.append(following)
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
    return chain


def _frame(frame: traceback.FrameSummary) -> str:
    """`mine.py:12 in reconstruct: return images`; of a file that is no package's its name alone."""
    parts = Path(frame.filename).parts
    roots = [place for place, part in enumerate(parts) if part == "site-packages" or part.startswith("dpbench")]
    known = parts[roots[-1] + (parts[roots[-1]] == "site-packages") :] if roots else parts[-1:]
    return clean(f"{'/'.join(known)}:{frame.lineno} in {frame.name}: {frame.line or ''}", 200)
