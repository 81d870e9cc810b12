"""What came out of a run, to look at: its board, its figures, its table and its plots."""

from __future__ import annotations

import html
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from dpbench.board.columns import FLOOR, WORST_CASE
from dpbench.errors import unknown
from dpbench.protocols.known import of_run
from dpbench.text.shown_text import clean
from dpbench.text.terminal import make_console

SHOWN = (
    *("defense", "defense_args", "attack", "threat_model", "accuracy", "ssim", "reid_top1", "label_read", "leakage"),
    "status",
)


class Results:
    """A run, or a file of its records, as it is read.

        >>> results = dpbench.Results("runs/tiny")
        >>> results
        Results('runs/tiny': 1 records)
        >>> list(results.board["attack"]) == ["worst-case", "mean-image", "floor"]
        True
        >>> "<table" in results._repr_html_()
        True

    Args:
        run: a run directory, or a file of records.

    Raises:
        DpbenchError: neither of the two, or a record in it cannot be read.
    """

    def __init__(self, run: str | Path) -> None:
        self.run = Path(run)
        self.protocol = of_run(self.run)
        self.records = self.protocol.store.counted([self.run], self.protocol.newest)

    @cached_property
    def board(self) -> pd.DataFrame:
        """One row per cell, and a worst-case row per defense setting; columns in `dpbench/guide/boards.md`."""
        return self.protocol.board(self.records)

    @cached_property
    def figures(self) -> pd.DataFrame:
        """One row per cell and victim, see `dpbench.load_records`."""
        return self.protocol.figures(self.records)

    def show(self) -> None:
        """Print the table that `dpbench run` ends with."""
        self.protocol.show(self.records, self.board, make_console())

    def plot(self, kind: str | None = None, output: str | Path | None = None) -> Any:
        """A plot of the board.

        Args:
            kind: one of those that `dpbench leaderboard --plot` knows; by default the first.
            output: where to write it, ending in .png, .pdf or .svg.

        Returns:
            The path where `output` is given, else a picture of PIL, which a notebook shows.

        Raises:
            DpbenchError: no such plot, or the run does not hold what it shows.
        """
        kinds = self.protocol.plots
        chosen = kind or next(iter(kinds), "")
        if chosen not in kinds:
            raise unknown("plot", chosen, kinds)
        if output is not None:
            self.protocol.write(self.records, self.board, Path(output), chosen)
            return Path(output)
        from PIL import Image

        with tempfile.TemporaryDirectory(prefix="dpbench-") as folder:
            path = Path(folder) / "plot.png"
            self.protocol.write(self.records, self.board, path, chosen)
            with Image.open(path) as picture:
                return picture.copy()

    def __repr__(self) -> str:
        return f"Results({str(self.run)!r}: {len(self.records)} records)"

    def _repr_html_(self) -> str:
        """The worst cases and floors as a table of HTML; what strangers wrote in it is text."""
        board = self.board
        if "attack" in board:
            board = board[board["attack"].isin([WORST_CASE, FLOOR])]
        shown = board[[column for column in SHOWN if column in board]] if "attack" in board else board
        cells = [[_shown(value) for value in row] for row in shown.itertuples(index=False)]
        head = "".join(f"<th>{html.escape(clean(column))}</th>" for column in shown.columns)
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(text)}</td>' for text in row)}</tr>" for row in cells)
        said = html.escape(
            f"{clean(self.run)}: {len(self.records)} records. A low figure means: not broken by these attacks."
        )
        return f"<p>{said}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.3f}"
    return clean(value)
