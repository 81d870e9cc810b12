"""What features gave away, as a table, a CSV and pictures."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from dpbench.answers.attacking import Attacked
from dpbench.machine.writing import write_atomically
from dpbench.records.pictures import pixels_of, write_rows
from dpbench.text.shown_text import clean

SHOWN = 8
"""Victims in the picture."""


def print_attacked(attacked: Attacked, console: Console) -> None:
    """The table, and what could not run."""
    count = len(next(iter(attacked.images.values())))
    shape = " x ".join(map(str, attacked.shape))
    lines = [
        f"{attacked.pairs} pairs, {count} victims; features of an image: {shape} {attacked.dtype}, "
        f"{attacked.bits / 1e3:,.1f} kbit"
    ]
    if attacked.figures:
        metrics = list(next(iter(attacked.figures.values())))
        table = Table(box=SIMPLE, padding=(0, 1, 0, 0), header_style="")
        table.add_column("attack", no_wrap=True)
        for name in metrics:
            table.add_column(name, justify="right")
        for attack, figures in attacked.figures.items():
            table.add_row(attack, *(f"{m:.3g} [{low:.3g}, {high:.3g}]" for m, low, high in figures.values()))
        console.print(table)
    for line in (*lines, *attacked.remarks):
        console.print(clean(line), markup=False, highlight=False, soft_wrap=True)


def write_attacked(attacked: Attacked, folder: Path) -> list[Path]:
    """`attack.png` and, where the victims' images are known, `attack.csv` in a folder."""
    rows = [(name, "", pixels_of(images[:SHOWN])) for name, images in attacked.images.items()]
    if attacked.truth is not None:
        rows.insert(0, ("true image", "", pixels_of(attacked.truth[:SHOWN])))
    picture, table = folder / "attack.png", folder / "attack.csv"
    write_rows(picture, rows, title="What the features give away")
    if not attacked.figures:
        return [picture]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["attack", "metric", "mean", "low", "high"])
    for attack, figures in attacked.figures.items():
        for metric, ends in figures.items():
            writer.writerow([attack, metric, *(f"{value:.6g}" for value in ends)])
    write_atomically(table, lambda path: path.write_text(text.getvalue(), encoding="utf-8", newline="\n"))
    return [picture, table]
