"""From figures to plain words: whether images come back, whom they name, and what an attacker is granted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

CLEAR, BLURRED = 0.8, 0.5
"""SSIM from which images count as coming back, and as coming back blurred."""

Name = Literal["yes", "partly", "traces", "no", "unknown"]


class Level(NamedTuple):
    """How much of the images comes back.

    Attributes:
        name: of the mark.
        short: for a table.
        said: for a sentence: "images come back".
    """

    name: Name
    short: str
    said: str

    @property
    def recognisable(self) -> bool:
        """Whether a person would recognise something."""
        return self.name in ("yes", "partly")


RULE = (
    f"Recovered: 'yes' from SSIM {CLEAR}, 'partly' from {BLURRED}, 'traces' below, each only where the whole 95% "
    "interval lies above the best blind guess; else 'not by these attacks'. Broken: recovered at least partly, or more "
    "victims re-identified than the best blind guess names, beyond both intervals."
)
"""How figures become words; said on the page."""


def level_of(row: Mapping[Any, Any], floor: Mapping[Any, Any] | None) -> Level:
    """What the SSIM of a worst-case row means beside that of the floor.

    Args:
        row: of a board, with `ssim` and `ssim_low`.
        floor: the row of the best blind guess; None where the board has none.
    """
    ssim = number(row, "ssim")
    if math.isnan(ssim):
        return Level("unknown", "not measured", "nothing was measured")
    if floor is not None and not _above(row, floor, "ssim"):
        return Level("no", "not by these attacks", "images do not come back by these attacks")
    if ssim >= CLEAR:
        return Level("yes", "yes", "images come back")
    if ssim >= BLURRED:
        return Level("partly", "partly", "images come back blurred or in part")
    return Level("traces", "traces", "traces of the images come back")


def names_victims(row: Mapping[Any, Any], floor: Mapping[Any, Any] | None, column: str = "reid_top1") -> bool:
    """Whether more victims are re-identified than by the best blind guess, or by chance where there is none.

    Args:
        row: of a board.
        floor: as for `level_of`.
        column: `reid_top1`, or `identity_top1` for identification by other pictures of the same person.
    """
    if floor is not None and not math.isnan(number(floor, column)):
        return _above(row, floor, column)
    chance = number(row, column.replace("top1", "chance"))
    low = number(row, f"{column}_low")
    return (number(row, column) if math.isnan(low) else low) > (0.0 if math.isnan(chance) else chance)


def broken(row: Mapping[Any, Any], floor: Mapping[Any, Any] | None) -> bool:
    """Whether the attacks got through, see `RULE`."""
    named = any(names_victims(row, floor, column) for column in ("reid_top1", "identity_top1"))
    return named or level_of(row, floor).recognisable


DOUBTS = {
    "incomplete": "; an attack failed, and with it this could only be worse",
    "unreliable": "; these attacks work nowhere, so that this says nothing",
}
"""Status of a row -> what a sentence on it must add."""


def told(row: Mapping[Any, Any], floor: Mapping[Any, Any] | None, *, headline: str = "") -> str:
    """`images come back (SSIM 0.96), 100% of the victims re-identified`: what a worst case means, for a sentence.

    Args:
        row: of a board.
        floor: as for `level_of`.
        headline: the column that the board is about.
    """
    level = level_of(row, floor)
    doubtful = not level.recognisable and "ssim" in str(row.get("trained_on") or "").split()
    trained = ", which the defense was trained against" if doubtful else ""
    parts = [f"{level.said} (SSIM {decimal(number(row, 'ssim'))}{trained})"]
    said = {"reid_top1": "of the victims re-identified"}
    if headline == "identity_top1":
        said["identity_top1"] = "identified by other pictures of them"
    for column, words in said.items():
        share = number(row, column)
        if math.isnan(share):
            continue
        if names_victims(row, floor, column):
            yet = "yet " if not level.recognisable and len(parts) == 1 else ""
            parts.append(f"{yet}{percent(share)} {words}")
        else:
            parts.append(f"{percent(share)} {words}, not clearly more than by a blind guess")
    if not level.recognisable and number(row, "link_top1_low") > number(row, "link_chance"):
        found, many = percent(number(row, "link_top1")), 1 / number(row, "link_chance")
        parts.append(f"yet comparing releases names {found} of them among {many:,.0f} candidates")
    return ", ".join(parts) + DOUBTS.get(str(row["status"]), "")


def _above(row: Mapping[Any, Any], floor: Mapping[Any, Any], column: str) -> bool:
    low, high = number(row, f"{column}_low"), number(floor, f"{column}_high")
    low = number(row, column) if math.isnan(low) else low
    high = number(floor, column) if math.isnan(high) else high
    return math.isnan(high) or low > high


def number(row: Mapping[Any, Any], column: str) -> float:
    """A figure of a row; NaN where there is none."""
    value = row.get(column)
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError):
        return math.nan


def percent(value: float) -> str:
    """`83%`; a dash where there is none. All and nothing are said only where it is so."""
    if math.isnan(value):
        return "\u2013"
    if 0 < value < 0.005:
        return "under 1%"
    return "over 99%" if 0.995 <= value < 1 else f"{value:.0%}"


def decimal(value: float) -> str:
    """`0.83`; a dash where there is none."""
    return "\u2013" if math.isnan(value) else f"{value:.2f}"


ACCESS = {
    "observe": (
        "sees releases and may ask nothing",
        "It sees what the client releases, of the victims and of others, and may send nothing through it",
    ),
    "static": (
        "does not know of the defense",
        "It knows the undefended client only, and attacks as if nothing was done",
    ),
    "query": (
        "may query the client",
        "It may send images of its own through the defended client and see what comes out, not how",
    ),
    "weights": ("holds the client's network", "It holds the defended client itself, weights and all"),
}
"""Threat model -> in a few words, and in a sentence."""


def against(row: Mapping[Any, Any]) -> str:
    """Whom a row is about, in a few words: `holds the client's network, owns images of another data set`."""
    words = [ACCESS.get(str(row["threat_model"]), (str(row["threat_model"]), ""))[0]]
    words += ["owns images of another data set"] if row["auxiliary"] == "shifted" else []
    words += [f"has {number(row, 'releases'):.0f} releases"] if number(row, "releases") > 1 else []
    words += ["hears the wire alone"] if row.get("server") == "trusted" else []
    return ", ".join(words)


def sentence(row: Mapping[Any, Any]) -> str:
    """Whom a row is about, in sentences."""
    access = ACCESS.get(str(row["threat_model"]), ("", f"Its access is {row['threat_model']!r}"))[1]
    images = (
        "images of another data set"
        if row["auxiliary"] == "shifted"
        else "images like the victims', never the victims themselves"
    )
    releases = number(row, "releases")
    several = f"{releases:.0f} releases of every victim" if releases > 1 else "one release of every victim"
    server = (
        "It hears the wire alone: the server is trusted"
        if row.get("server") == "trusted"
        else "It holds the server's half"
    )
    return f"{access}. {server}. It owns {images}, and has {several}; it may spend a {row['budget']} budget."
