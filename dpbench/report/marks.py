"""Colour and sign of a defense: the same on every page and plot."""

from __future__ import annotations

from dpbench.contract.threat import UNDEFENDED
from dpbench.reporting.plot_style import style_of

INK = "ink"
"""The colour of text, light on dark or dark on light: the page knows which."""

SIGNS = {
    "o": ("\u25cf", "circle"),
    "s": ("\u25a0", "square"),
    "D": ("\u25c6", "diamond"),
    "^": ("\u25b2", "triangle-up"),
    "v": ("\u25bc", "triangle-down"),
    "P": ("\u271a", "cross"),
    "X": ("\u2716", "x"),
    "<": ("\u25c0", "triangle-left"),
    ">": ("\u25b6", "triangle-right"),
    "h": ("\u2b22", "hexagon"),
}
"""Marker of matplotlib -> the character, and plotly's name for it."""


def mark_of(defense: str) -> tuple[str, str]:
    """Colour and character; the undefended model has a star in the colour of text."""
    if defense in (UNDEFENDED, ""):
        return INK, "\u2605"
    colour, marker = style_of(defense)
    return colour, SIGNS[marker][0]


def symbol_of(defense: str) -> tuple[str, str]:
    """Colour, and marker as plotly calls it."""
    if defense in (UNDEFENDED, ""):
        return INK, "star"
    colour, marker = style_of(defense)
    return colour, SIGNS[marker][1]
