"""The one exception that reaches a user as a single line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DpbenchError(Exception):
    """Input that cannot be used: what was expected, what came, what to do. The CLI exits with status 2."""


def unknown(kind: str, name: str, known: Iterable[str]) -> DpbenchError:
    """An error for a name that is not there, with the nearest name that is."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    suggestion = f" did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
    return DpbenchError(f"unknown {kind} {name!r};{suggestion} known: {shown or '(none)'}")
