"""The verdict of a page: how each defense setting stands, and what that amounts to in a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from dpbench.report.content import Tone
from dpbench.report.levels import broken, level_of, number

NO_PROOF = "That is not proof of privacy."

Standing = Literal["seen", "named", "held", "open"]
"""Of a setting: images are recognised; victims are named, though pictures are not; neither; nothing can be said."""


def standing(row: Mapping[Any, Any], floor: Mapping[Any, Any] | None, *, telling: bool) -> Standing:
    """How a setting stands.

    Args:
        row: its worst case, of a board.
        floor: the best blind guess; None where the board has none.
        telling: whether the same attacks work where nothing defends: else what they do not recover says nothing.
    """
    if broken(row, floor):
        return "seen" if level_of(row, floor).recognisable else "named"
    # what an attack that failed, or works nowhere, does not recover another one may
    known = telling and row["status"] == "ok" and not math.isnan(number(row, "ssim"))
    return "held" if known else "open"


def verdict(standings: Sequence[Standing], *, unaware: bool, why: str) -> tuple[str, Tone]:
    """Can the images be recovered? The answer in a sentence or two.

    Args:
        standings: of every defense setting; one at least.
        unaware: whether nobody who attacked knew of the defense.
        why: what keeps one from saying anything, for where that is so of all.
    """
    seen, named, held, unknown = (standings.count(name) for name in ("seen", "named", "held", "open"))
    total = len(standings)
    said = f" Of {_settings(unknown, total)} nothing can be said." if unknown else ""
    if seen:
        also = f"; behind {named} more the victims are re-identified all the same" if named else ""
        return f"Yes, behind {_settings(seen, total)}{also}.{said}", "bad" if seen + named == total else "mixed"
    if named:
        text = f"Not as pictures, but victims are re-identified behind {_settings(named, total)}.{said}"
        return text, "bad" if named == total else "mixed"
    if held:
        by = ", by attackers who do not know of the defense," if unaware else ""
        text = f"Not by these attacks{by} behind {_settings(held, total)}.{said} {NO_PROOF}"
        return text, "open" if unknown else "good"
    return f"That cannot be said: {why}.", "open"


def _settings(count: int, total: int) -> str:
    """`all 6 defense settings tested`."""
    if total == 1:
        return "the one defense tested"
    return f"{'all' if count == total else f'{count} of the'} {total} defense settings tested"


def undefended(standings: Sequence[Standing]) -> tuple[str, Tone]:
    """The same where no defense was tested, of undefended networks at one or several split points."""
    seen, named, total = standings.count("seen"), standings.count("named"), len(standings)
    if not standings:
        return "Nothing was measured: no attack finished.", "open"
    if not seen + named:
        return f"Not by these attacks, and no defense was tested. {NO_PROOF}", "open"
    where = f" at {{}} {total} split points tested" if total > 1 else ""
    if seen:
        also = f"; at {named} more the victims are re-identified all the same" if named else ""
        place = where.format("all" if seen == total else f"{seen} of the")
        text = f"Yes, without a defense{',' if place else ''}{place}{also}."
    else:
        place = where.format("all" if named == total else f"{named} of the")
        text = f"Not as pictures, but without a defense victims are re-identified{place}."
    return f"{text} No defense was tested.", "bad" if seen + named == total else "mixed"


def points(change: float) -> str:
    """What a defense costs, or an export gains, with its sign: `+3.0 points of accuracy` for 0.03."""
    return f"{round(100 * change, 1) + 0.0:+.1f} points of accuracy".replace("-", "\u2212")  # + 0.0: no -0.0
