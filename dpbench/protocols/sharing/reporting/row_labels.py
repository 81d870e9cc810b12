"""Which parameters tell the settings of one defense apart on a sharing board."""

from __future__ import annotations

import pandas as pd

from dpbench.board.columns import arguments_of
from dpbench.suite.names import varying


def varied_arguments(rows: pd.DataFrame) -> dict[object, dict[str, str]]:
    """Row -> the parameters in which settings of its defense differ -> value."""
    known = arguments_of(rows)
    given = {place: known.get(text, {}) for place, text in rows["defense_args"].items()}
    short: dict[object, dict[str, str]] = {}
    for _, same in rows.groupby("defense", sort=False):
        varied = varying([given[place] for place in same.index])
        for place in same.index:
            short[place] = {name[1]: given[place][name] for name in varied if name in given[place]}
    return short
