"""What the figures of a board are set against: rows of two runs compare where that is the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Yardstick:
    """What a board's figures are set against: rows of another run stand on it where they are set against the same.

    Attributes:
        scope: columns; rows that agree in them have one scale.
        is_reference: board -> which of its rows make the scale.
        columns: figures that mean nothing on another scale.
        words: texts likewise.
        arranged: rows of several boards, in the order of one.
        differences: own and published rows of one scope -> where the references came out otherwise, in words.
    """

    scope: tuple[str, ...]
    is_reference: Callable[[pd.DataFrame], pd.Series[bool]]
    columns: tuple[str, ...]
    words: tuple[str, ...]
    arranged: Callable[[pd.DataFrame], pd.DataFrame]
    differences: Callable[[pd.DataFrame, pd.DataFrame], Iterable[str]] = lambda own, published: ()
