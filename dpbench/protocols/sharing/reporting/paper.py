"""A board of a sharing suite as a table for a paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dpbench.board.caveats import leakage_lines
from dpbench.protocols.sharing.reporting.columns import DECIMALS, FLOOR, NUMBERS, SUBJECT, varied_arguments
from dpbench.protocols.sharing.reporting.table import TRAINED_ON
from dpbench.reporting.longtable import Group, figure, tex, write_longtable
from dpbench.reporting.paper_table import chosen_rows
from dpbench.reporting.plots.plot_style import label_for
from dpbench.suite.names import arguments_text

COLUMNS = ("condition", "accuracy", "gain", "share_kept", "ssim", "reid_top1", "label_read", "leakage")

FEATURES = ("clean-features", "defended-features", FLOOR)

ROWS: dict[str, Callable[[pd.DataFrame], pd.Series[bool]]] = {
    "features": lambda board: board["condition"].isin(FEATURES),
    "all": lambda board: board["condition"].notna(),
}
"""What `--rows` may ask for: the features that were attacked and the floor, or whatever was trained on, too."""

WHOLE = ("victims", "own_images", "shared_images")


def write_sharing_paper(
    board: pd.DataFrame, path: Path, *, rows: str | None = None, columns: Sequence[str] | None = None
) -> int:
    """Write some rows and columns of a board as a longtable for an article to input.

    Args:
        board: from `dpbench.protocols.sharing.reporting.board`.
        path: ends in .tex.
        rows: `all`, which is the default, or `features`.
        columns: of the board, by default eight; `condition` stands with the defense and its parameters.

    Returns:
        How many rows it has.

    Raises:
        DpbenchError: no such rows or column, or nothing to show.
    """
    rows, columns = rows or "all", COLUMNS if columns is None else columns
    chosen = chosen_rows(board, path, ROWS, rows, columns)
    write_longtable(path, columns, _groups(chosen, columns), leakage_lines(chosen))
    return len(chosen)


def _groups(board: pd.DataFrame, columns: Sequence[str]) -> Iterator[Group]:
    decimals = {column: 0 if column in WHOLE else DECIMALS.get(column, 4) for column in NUMBERS}
    for names, rows in board.groupby(list(SUBJECT), sort=False):
        dataset, backbone, split_point, receiver, senders = (tex(name) for name in names)
        short = varied_arguments(rows)
        title = f"{dataset}, {backbone} split at {split_point}: {receiver} trains on {senders.replace(' ', ', ')}"
        cells = []
        for place, row in zip(rows.index, rows.to_dict("records"), strict=True):
            values = {str(key): value for key, value in row.items()}
            said = _trained_on(values, short[place], board)
            cells.append([tex(said) if one == "condition" else figure(values, one, decimals) for one in columns])
        yield title, cells


def _trained_on(row: Mapping[str, Any], arguments: dict[str, str], board: pd.DataFrame) -> str:
    if row["condition"] == FLOOR:
        return FLOOR
    setting = f"{label_for(board, str(row['defense']))} {arguments_text(arguments)}".strip()
    marked = f" ({row['origin']})" if str(row.get("origin", "measured")) != "measured" else ""
    return TRAINED_ON[str(row["condition"])].format(setting).strip() + marked
