"""What plug-ins say of themselves, as plain JSON: whatever it was, it can be stored, and read as it was stored."""

from __future__ import annotations

import math
from typing import Any

DEEPEST = 16
"""Levels of lists and dicts; what lies deeper is left out."""

LONGEST = 10_000
"""Characters of a text, and values of a note altogether; what is more is left out."""

LEFT_OUT = "..."

LARGEST = 2**63
"""Integers beyond it are written in hexadecimal, as text: few readers of JSON know them."""


def plain(value: object) -> Any:
    """A JSON value for anything: what JSON cannot say becomes text.

    NaN and infinities are `nan`, `inf` and `-inf`; bytes and lone surrogates are shown by escapes; tensors and arrays
    become lists; sets are sorted; other objects are shown by their `str`. Where something holds itself, lies too deep
    or goes on for too long, `...` stands in its place.
    """
    return _Writer().plain(value, ())


def storable_text(text: str) -> str:
    r"""The text, its lone surrogates as escapes such as `\udcff`: UTF-8 cannot say them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class _Writer:
    """Turns one note into JSON values, and counts them: a note that is too long ends early."""

    def __init__(self) -> None:
        self.left = LONGEST

    def plain(self, value: object, above: tuple[int, ...]) -> Any:
        self.left -= 1
        if self.left < 0 or len(above) > DEEPEST or id(value) in above:
            return LEFT_OUT
        if value is None or isinstance(value, bool):
            return value
        # by the base class: what a subclass overrides is not asked
        if isinstance(value, str):
            return _cut(str.__str__(value))
        if isinstance(value, bytes | bytearray):
            return _cut(bytes(value[: LONGEST + 1]).decode("utf-8", "backslashreplace"))
        if isinstance(value, int):
            whole = int.__int__(value)
            return whole if -LARGEST <= whole < LARGEST else _cut(hex(whole))
        if isinstance(value, float):
            number = float.__float__(value)
            return number if math.isfinite(number) else str(number)
        try:
            return self._container(value, (*above, id(value)))
        except Exception as error:  # a plug-in's object may raise whatever it likes when it is looked at
            return f"{type(value).__name__} that cannot be read: {type(error).__name__}"

    def _container(self, value: Any, above: tuple[int, ...]) -> Any:
        if isinstance(value, dict):
            items = list(dict.items(value))[: max(0, self.left)]
            left_out = {LEFT_OUT: len(value) - len(items)} if len(items) < len(value) else {}
            return {_cut(str(name)): self.plain(one, above) for name, one in items} | left_out
        if isinstance(value, set | frozenset):
            value = sorted(value, key=str)
        elif hasattr(value, "tolist"):  # tensors and arrays; their scalars become numbers
            listed = value.tolist()
            return self.plain(listed, above[:-1]) if listed is not value else LEFT_OUT
        if isinstance(value, list | tuple):
            taken = value[: max(0, self.left)]
            return [self.plain(one, above) for one in taken] + [LEFT_OUT] * (len(taken) < len(value))
        return _cut(str(value))


def _cut(text: str) -> str:
    return storable_text(text if len(text) <= LONGEST else text[:LONGEST] + LEFT_OUT)
