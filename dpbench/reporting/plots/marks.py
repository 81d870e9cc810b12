"""Colour and sign of a defense: the same on every page and plot."""

from __future__ import annotations

import zlib

from dpbench.contract.threat import UNDEFENDED

INK = "ink"
"""The colour of text, light on dark or dark on light: the page knows which."""

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#7F7F7F",
    "#8C6BB1",
    "#B15928",
    "#66A61E",
)
"""Okabe and Ito's and three more: told apart by colour-blind readers; signs differ too, for print in grey."""

SIGNS = {
    "\u25cf": "circle",
    "\u25a0": "square",
    "\u25c6": "diamond",
    "\u25b2": "triangle-up",
    "\u25bc": "triangle-down",
    "\u271a": "cross",
    "\u2716": "x",
    "\u25c0": "triangle-left",
    "\u25b6": "triangle-right",
    "\u2b22": "hexagon",
}
"""Character -> plotly's name for the marker."""

SALT = 127412
"""With it no two built-in defenses have both in common, and those of the published boards neither."""


def mark_of(defense: str) -> tuple[str, str]:
    """Colour and character of a defense, whichever others stand beside it; the undefended model has a star."""
    if defense in (UNDEFENDED, ""):
        return INK, "\u2605"
    number = zlib.crc32(f"{SALT} {defense}".encode())
    return COLOURS[number % len(COLOURS)], list(SIGNS)[number // len(COLOURS) % len(SIGNS)]


def symbol_of(defense: str) -> tuple[str, str]:
    """Colour, and marker as plotly calls it."""
    colour, sign = mark_of(defense)
    return colour, SIGNS.get(sign, "star")


MARKERS = dict(zip(SIGNS, "osD^vPX<>h", strict=True))
"""Character -> matplotlib's name for the marker."""


def style_of_defense(defense: str) -> tuple[str, str]:
    """Colour, and marker as matplotlib calls it."""
    colour, sign = mark_of(defense)
    return ("black", "*") if colour == INK else (colour, MARKERS[sign])
