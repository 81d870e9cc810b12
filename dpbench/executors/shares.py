"""One share of a plan for each of several machines: disjoint, together everything, alike in size."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from dpbench.errors import DpbenchError

T = TypeVar("T")

MOVED = 4
"""The end of a share moves by one part in so many of its size at most, to where nothing shared is cut in two."""


def parse_shard(text: str) -> tuple[int, int]:
    """`2/8` -> (2, 8): the second of eight shares.

    Raises:
        DpbenchError: it is not that.
    """
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise DpbenchError(f"--shard {text} is not usable; expected I/N with I from 1 to N, such as 1/4")
    return int(found[1]), int(found[2])


def share(items: Sequence[T], groups: Sequence[str], shard: tuple[int, int]) -> list[T]:
    """The items of one share: a stretch of the plan, which is in an order that keeps together what shares networks.

    So each end of a stretch cuts through at most one group, and through none where one of the groups' borders is near:
    with N shares what is shared is made at most N - 1 times more than by one machine, whatever the number of items.

    Args:
        items: the whole plan.
        groups: of each item, what it shares with others, such as a fitted defense.
        shard: which share, from 1, and of how many.
    """
    which, many = shard
    ends = [_end(groups, place * len(items) / many, len(items) / many) for place in range(many + 1)]
    return list(items[ends[which - 1] : ends[which]])


def _end(groups: Sequence[str], wanted: float, size: float) -> int:
    """The border of a group next to `wanted`, unless it is too far."""
    at = round(wanted)
    far = int(size / MOVED)
    nearby = [
        place
        for place in range(max(0, at - far), min(len(groups), at + far) + 1)
        if place in (0, len(groups)) or groups[place - 1] != groups[place]
    ]
    return min(nearby, key=lambda place: abs(place - wanted), default=at)
