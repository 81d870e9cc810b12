"""A board as a file for people, whichever ending it has."""

from pathlib import Path

import pandas as pd

from dpbench.board.files import write_board
from dpbench.protocols.inference.report import report_of_cells
from dpbench.report.page import write_page


def written(board: pd.DataFrame, path: Path) -> str:
    """The text of the file, as `dpbench leaderboard` writes it."""
    if path.suffix == ".html":
        write_page(report_of_cells(board), path)
    else:
        write_board(board, path)
    return path.read_text(encoding="utf-8")
