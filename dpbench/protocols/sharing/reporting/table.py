"""Boards of sharing suites as tables, files and pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpbench.board.caveats import NO_PRIVACY, leakage_lines
from dpbench.board.columns import own_metrics
from dpbench.errors import DpbenchError
from dpbench.machine.writing import write_atomically
from dpbench.protocols.sharing.records import SharingRecord
from dpbench.protocols.sharing.reporting.columns import FLOOR, RIVAL, SUBJECT, columns_with, varied_arguments
from dpbench.protocols.sharing.reporting.plots import write_benefit, write_transfer
from dpbench.protocols.sharing.reporting.transfer import build_transfer, matrices
from dpbench.reporting.plots.plot_style import LABELS, PLOTTED
from dpbench.suite.names import arguments_text
from dpbench.text.shown_text import ERROR_LIMIT, clean
from dpbench.text.tables import csv_text, in_markdown

TRAINED_ON = {
    "own": "own data only",
    "own-longer": "own, more epochs",
    "clean-images": "+ clean images",
    "clean-features": "+ clean features",
    "sender-tail": "the sender's tail, no features",
    "soft-labels": "+ the sender's soft labels",
    "defended-features": "+ {}",
    "shuffled-labels": "  labels shuffled, {}",
    "equal-noise": "  noise like {}",
}
"""Condition -> what the table calls it; {} is the defense."""

LEGEND = (
    "top-1 of the receiver after training; gain over its own data only, paired image by image; kept: share of the gain "
    "that clean images give. public, own, query, worst: SSIM of the best attack by one who knows the public head, also "
    "a defense of its own, may query the sender's, has it. leakage: 0 the floor of the picture "
    "metrics (no privacy: see re-id), 1 undefended features. link: named among candidates by comparing releases; "
    "client: million multiply-adds that the defense adds for an image; labels: points beyond the sender's soft labels. "
    "A low figure means: not broken by these attacks."
)


def write_sharing_board(records: list[SharingRecord], board: pd.DataFrame, output: Path, plot: str) -> int:
    """Derive a board, a transfer matrix or a picture from records alone; returns how many rows it rests on.

    Args:
        records: of runs.
        board: of the same.
        output: ends in .csv or .md for a table, in .png, .pdf or .svg for a picture.
        plot: `benefit` or `transfer`: what a picture shows; with `transfer` a table is the matrix.

    Raises:
        DpbenchError: another ending, or nothing to show.
    """
    table = board
    if plot == "transfer":
        table = build_transfer(records)
        table.attrs |= {LABELS: board.attrs.get(LABELS, {})}
    if output.suffix == ".csv":
        write_csv(table, output)
    elif output.suffix == ".md":
        text = str(_readable(table).map(in_markdown).to_markdown(index=False, disable_numparse=True)) + "\n"
        if plot != "transfer" and table["leakage"].notna().any():
            text += f"\n{NO_PRIVACY[0].upper()}{NO_PRIVACY[1:]}.\n"
        write_atomically(output, lambda path: path.write_text(text, encoding="utf-8"))
    elif output.suffix.lower() in PLOTTED:
        (write_transfer if plot == "transfer" else write_benefit)(table, output)
    else:
        raise DpbenchError(
            f"{output.name}: a sharing board ends in .csv, .md or .tex, its page in .html, its plot in .png, .pdf or "
            ".svg; the transfer matrix in .csv, .md or as a plot"
        )
    return len(table)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """A table as a CSV file, atomically."""
    text = csv_text(table)
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    """The columns in which some row has a value, as text that is safe to show."""
    shown = table.loc[:, table.notna().any() & (table != "").any()]
    return shown.astype(object).where(shown.notna(), "").astype(str).map(lambda text: clean(text, ERROR_LIMIT))


def print_sharing(board: pd.DataFrame, console: Console) -> None:
    """Print a sharing board: one table per network and receiver, with its floor, its caveats and the legend."""
    assert list(board.columns) == columns_with(own_metrics(board), board.columns)
    for names, rows in board.groupby(list(SUBJECT), sort=False):
        dataset, backbone, split_point, receiver, senders = (clean(name) for name in names)
        console.print()
        title = f", {backbone} split at {split_point}: {receiver} trains on what {senders.replace(' ', ', ')} shared"
        console.print(Text.assemble((dataset, "bold"), title))
        console.print(_table(rows))
        floor = rows[rows["condition"] == FLOOR]["ssim"].dropna()
        if len(floor):
            console.print(Text(f"floor: SSIM {floor.iloc[0]:.2f}", style="dim"))
        for line in leakage_lines(rows):
            console.print(Text(line, style="yellow"))
    if len(board):
        console.print(Text(LEGEND, style="dim"))


def _table(rows: pd.DataFrame) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, show_edge=False)
    table.add_column("trained on")
    columns = {"ssim_public": "public", "ssim_own": "own", "ssim_query": "query", "ssim": "worst"}
    columns |= {name: name for name in own_metrics(rows)}
    further = [name for name, column in FURTHER.items() if column in rows and rows[column].notna().any()]
    for name in ("top-1", "gain", "kept", *columns.values(), "re-id", "leakage", *further):
        table.add_column(name, justify="right", style="bold" if name in ("gain", "leakage") else "")
    short = varied_arguments(rows)
    for place, row in rows[rows["condition"] != FLOOR].iterrows():
        table.add_row(
            Text(TRAINED_ON[str(row["condition"])].format(clean(f"{row['defense']} {arguments_text(short[place])}"))),
            _percent(row["accuracy"]),
            _points(row["gain"]),
            _percent(row["share_kept"], decimals=0),
            *(_figure(row[column]) for column in columns),
            _percent(row["reid_top1"], decimals=0),
            _figure(row["leakage"]),
            *(SHOWN[name](row[FURTHER[name]]) for name in further),
        )
    return table


def _percent(value: float, decimals: int = 1) -> str:
    return "" if pd.isna(value) else f"{100 * value:.{decimals}f}%"


def _points(value: float) -> str:
    return "" if pd.isna(value) else f"{100 * value:+.1f}"


def _figure(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.2f}"


def _millions(value: float) -> str:
    return "" if pd.isna(value) else f"{value / 1e6:+.1f}"


FURTHER = {"link": "link_top1", "client": "added_multiply_adds", "labels": RIVAL}
"""Heading -> column, where records hold it."""

SHOWN: dict[str, Callable[[float], str]] = {
    "link": lambda value: _percent(value, decimals=0),
    "client": _millions,
    "labels": _points,
}


def print_transfer(transfer: pd.DataFrame, console: Console) -> None:
    """Mean SSIM of attacks prepared on one fit (a row) and judged on another (a column)."""
    for names, matrix in matrices(transfer):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
        table.add_column("SSIM, prepared on")
        for fit in matrix["ssim"].columns:
            table.add_column(f"judged on {fit}", justify="right")
        for name, values in matrix["ssim"].iterrows():
            table.add_row(Text(clean(name)), *(_figure(value) for value in values))
        console.print()
        console.print(Text(clean(f"transfer between independent fits: {names}")))
        console.print(table)
