"""A board of cells as a table for a paper: worst cases and eight columns unless others are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dpbench.board.caveats import caveats, granted
from dpbench.board.columns import FLOOR, WORST_CASE, decimals_of, own_metrics
from dpbench.errors import DpbenchError, unknown
from dpbench.reporting.longtable import Group, figure, tex, write_longtable
from dpbench.reporting.plots.plot_style import label_for
from dpbench.reporting.selection import PANEL, short_arguments

COLUMNS = ("defense", "attacker", "accuracy", "ssim", "lpips", "reid_top1", "label_read", "leakage")

ROWS: dict[str, Callable[[pd.DataFrame], pd.Series[bool]]] = {
    "worst": lambda board: board["attack"].isin([WORST_CASE, FLOOR]),
    "attacks": lambda board: ~board["attack"].isin([WORST_CASE, FLOOR]),
    "all": lambda board: board["attack"].notna(),
}
"""What `--rows` may ask for: worst cases and the floor, single attacks, or both."""


def write_paper_table(
    board: pd.DataFrame, path: Path, *, rows: str | None = None, columns: Sequence[str] | None = None
) -> int:
    """Write some rows and columns of a board as a longtable for an article to input.

    Args:
        board: from `dpbench.board.leaderboard`, or read from a file.
        path: ends in .tex.
        rows: `worst`, which is the default, `attacks` or `all`.
        columns: of the board, by default eight; `defense` stands with the parameters that tell it from its namesakes,
            `attacker` is who attacks and what that one is granted.

    Returns:
        How many rows it has.

    Raises:
        DpbenchError: no such rows or column, or nothing to show.
    """
    rows, columns = rows or "worst", COLUMNS if columns is None else columns
    chosen = chosen_rows(board, path, ROWS, rows, columns, ("attacker",))
    write_longtable(path, columns, _groups(chosen, columns), caveats(chosen))
    return len(chosen)


def chosen_rows(
    board: pd.DataFrame,
    path: Path,
    known: Mapping[str, Callable[[pd.DataFrame], pd.Series[bool]]],
    rows: str,
    columns: Sequence[str],
    further: Sequence[str] = (),
) -> pd.DataFrame:
    """The rows of a board that are asked for.

    Args:
        board: any.
        path: for errors.
        known: what may be asked for.
        rows: which of them is.
        columns: likewise.
        further: columns that a table has and the board has not.

    Raises:
        DpbenchError: no such rows or column, or nothing to show.
    """
    if rows not in known:
        raise unknown("rows", rows, known)
    there = [*further, *(str(column) for column in board.columns)]
    for column in columns:
        if column not in there:
            raise unknown("column", column, there)
    chosen = board[known[rows](board)]
    if chosen.empty or not columns:
        raise DpbenchError(f"{path.name}: the board has no such rows, or no column is asked for; nothing to write")
    return chosen


def _groups(board: pd.DataFrame, columns: Sequence[str]) -> Iterator[Group]:
    decimals = decimals_of(own_metrics(board).values())
    for names, rows in board.groupby(list(PANEL), sort=False):
        dataset, backbone, split_point, seed = (tex(name) for name in names)
        seeds = "all seeds" if seed == "all" else f"seed {seed}"
        short = short_arguments(rows)
        given = [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]
        title = f"{dataset}, {backbone} split at {split_point}, {seeds}"
        yield title, [[_cell(row, column, short, board, decimals) for column in columns] for row in given]


def _cell(
    row: Mapping[str, Any],
    column: str,
    short: Mapping[tuple[str, str], str],
    board: pd.DataFrame,
    decimals: Mapping[str, int],
) -> str:
    if row["attack"] == FLOOR and column in ("defense", "attacker"):
        return FLOOR if column == "defense" else ""
    if column == "defense":
        name = label_for(board, str(row["defense"]))
        marked = {"measured": ""}.get(row["origin"], f" ({row['origin']})")
        return tex(f"{name} {short[row['defense'], row['defense_args']]}".strip() + marked)
    if column == "attacker":
        return tex(granted(row) if row["attack"] == WORST_CASE else f"{row['attack']} ({granted(row)})")
    return figure(row, column, decimals)
