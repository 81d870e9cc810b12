"""What boards of cells are set against: the undefended model under the same attacks, and the floor."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from dpbench.board.columns import FLOOR, WORST_CASE, tidy
from dpbench.board.rows import sorted_rows
from dpbench.contract.threat import UNDEFENDED
from dpbench.running.yardstick import Yardstick

LEAKAGE = ("leakage", "leakage_ssim", "leakage_psnr_db", "leakage_lpips")


def _is_reference(board: pd.DataFrame) -> pd.Series[bool]:
    """Rows of the undefended model, and the floor."""
    return (board["defense"] == UNDEFENDED) | (board["attack"] == FLOOR)


def _other_fit(rows: pd.DataFrame, known: pd.DataFrame) -> Iterator[str]:
    """Where the undefended model of a run is another fit than the board's."""
    here, there = (_undefended(part) for part in (rows, known))
    if here is None or there is None:
        return
    for column, decimals in (("accuracy", 3), ("ssim", 3)):
        mean, low, high = (there[f"{column}{end}"] for end in ("", "_low", "_high"))
        if pd.notna(low) and not low <= here[column] <= high:
            yield (
                f"another fit of the network: undefended {column} {here[column]:.{decimals}f}, on the board "
                f"{mean:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]; read differences with that in mind"
            )
    if here.get("leakage_metrics", "") != there.get("leakage_metrics", ""):
        yield (
            f"leakage is made of {here.get('leakage_metrics', '') or 'nothing'}, on the board of "
            f"{there.get('leakage_metrics', '') or 'nothing'}: do not compare it"
        )


def _undefended(rows: pd.DataFrame) -> pd.Series | None:
    """The worst case of the undefended model: the first such row of a board is the strongest attacker's."""
    found = rows[(rows["defense"] == UNDEFENDED) & (rows["attack"] == WORST_CASE)]
    return None if found.empty else found.iloc[0]


CELL_YARDSTICK = Yardstick(
    scope=("dataset", "backbone", "split_point", "seed"),
    is_reference=_is_reference,
    columns=tuple(f"{name}{end}" for name in LEAKAGE for end in ("", "_low", "_high")),
    words=("leakage_metrics",),
    arranged=lambda board: sorted_rows(tidy(board)),
    differences=_other_fit,
)
"""Leakage stands on the undefended model under the board's attacks, and on its floors."""
