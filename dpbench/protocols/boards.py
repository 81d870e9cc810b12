"""Board files of every protocol, told apart by their columns. Nothing here needs torch."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from dpbench.board.columns import BoardKind, Layout
from dpbench.board.files import CELL_BOARDS, read_table
from dpbench.protocols.sharing.reporting.columns import SHARING_BOARDS

KINDS: list[BoardKind] = [CELL_BOARDS, SHARING_BOARDS]
"""The boards of the protocols that are known; `dpbench.protocols.known` adds those of others."""


def read(path: Path) -> tuple[pd.DataFrame, Layout]:
    """A board of any protocol from its CSV file, and how it names its rows.

    Raises:
        DpbenchError: as `dpbench.board.files.read_board`.
    """
    table = read_table(path)
    kind = next((kind for kind in KINDS if kind.layout.fits(table.header)), CELL_BOARDS)
    return kind.read(table), kind.layout
