"""What tells settings of one defense apart on a sharing board, in few words."""

from __future__ import annotations

import pandas as pd

from dpbench.suite.names import varying


def varied_arguments(rows: pd.DataFrame) -> dict[object, str]:
    """Row -> the parameters in which settings of its defense differ."""
    given = {place: _arguments(text) for place, text in rows["defense_args"].items()}
    short: dict[object, str] = {}
    for _, same in rows.groupby("defense", sort=False):
        varied = varying([given[place] for place in same.index])
        for place in same.index:
            short[place] = " ".join(f"{name[1]}={given[place][name]}" for name in varied if name in given[place])
    return short


def _arguments(text: str) -> dict[tuple[int, str], str]:
    """`std=1.0 + bits=2`, of senders who apply different defenses -> number of the defense and parameter -> value."""
    found = {}
    for number, arguments in enumerate(text.split(" + ")):
        for argument in arguments.split():
            name, _, value = argument.partition("=")
            found[number, name] = value
    return found
