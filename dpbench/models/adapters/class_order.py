"""In what order the rows of a classifier that comes with its weights name the classes of the data."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dpbench.errors import DpbenchError
from dpbench.models.spec import ClassOrder

SHOWN = 4
"""How many classes a message names before it ends in `...`."""


def natural_key(name: str) -> list[str | int]:
    """As timm sorts class folders: numbers in names by their value, whatever the case."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.lower())]


def rows_for(order: ClassOrder, names: Sequence[str], stated: Sequence[str]) -> list[int] | None:
    """For each class of the data, the row of the classifier that means it; None where they are in the data's order.

    Args:
        order: of the rows; `auto` takes them as they are.
        names: of the data's classes, in the order of the labels.
        stated: names of the rows, where the file of the weights says.

    Raises:
        DpbenchError: the file should state the classes, and states none or others.
    """
    if order == "auto":
        return None
    if order == "stated":
        if list(stated) == list(names):
            return None
        if sorted(stated) != sorted(names):
            raise DpbenchError(
                f"class_order = 'stated', but the weights state {_some(stated)}, and the data has {_some(names)}; "
                "use weights that state these classes (class_to_idx, classes), or another class_order"
            )
        by_row = list(stated)
    else:
        by_row = sorted(names, key=natural_key if order == "natural" else None)
    places: dict[str, list[int]] = {}
    for row, name in enumerate(by_row):
        places.setdefault(name, []).append(row)
    # ImageNet has two classes called crane: the first of a name is the first of it in the other list, too
    rows = [places[name].pop(0) for name in names]
    return rows if rows != sorted(rows) else None


def order_of(names: Sequence[str], stated: Sequence[str], *, folders: bool) -> tuple[ClassOrder, str]:
    """The order of the rows of a classifier for these classes, and what to tell the user about it, if anything.

    Args:
        names: of the data's classes, in the order of the labels.
        stated: names of the rows, where the file of the weights says.
        folders: the data is a folder of class folders, which timm sorts naturally and others alphabetically.
    """
    if stated and sorted(stated) == sorted(names):
        return ("stated", "") if rows_for("stated", names, stated) else ("auto", "")
    if stated:
        return "auto", f"they are for the classes {_some(stated)}, and the data has {_some(names)}: taken in that order"
    if folders and rows_for("natural", names, ()):
        natural = sorted(names, key=natural_key)
        return "natural", (
            f"they do not say how their classes are ordered: taken as timm orders class folders ({_some(natural)}), "
            f'not alphabetically ({_some(sorted(names))}); class_order = "sorted" under [[backbones]] is the latter'
        )
    return "auto", ""


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:SHOWN], *(["..."] if len(names) > SHOWN else [])]) or "none"
