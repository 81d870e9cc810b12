"""Board files of every protocol, told apart by their columns. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dpbench.board.columns import CELLS, Layout
from dpbench.board.files import read_board, read_table
from dpbench.protocols.sharing.reporting.columns import LAYOUT, read_sharing_board


@dataclass(frozen=True)
class BoardKind:
    """The boards of a protocol.

    Attributes:
        layout: how they name their rows.
        read: a CSV file -> the board, checked.
    """

    layout: Layout
    read: Callable[[Path], pd.DataFrame]


KINDS: dict[str, BoardKind] = {
    "inference": BoardKind(CELLS, read_board),
    "sharing": BoardKind(LAYOUT, read_sharing_board),
}
"""Name of a protocol -> its boards."""


def read(path: Path) -> tuple[pd.DataFrame, Layout]:
    """A board of any protocol from its CSV file, and how it names its rows.

    Raises:
        DpbenchError: as `dpbench.board.files.read_board`.
    """
    header, _, _ = read_table(path)
    kind = next((kind for kind in KINDS.values() if kind.layout.fits(header)), KINDS["inference"])
    return kind.read(path), kind.layout
