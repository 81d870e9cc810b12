"""What each attack is worth, as a table: on the terminal, as values, or on a page."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpbench.errors import DpbenchError
from dpbench.machine.writing import write_atomically
from dpbench.text.shown_text import ERROR_LIMIT, clean
from dpbench.text.tables import csv_text, in_markdown
from dpbench.tradeoffs.portfolio import Portfolio

DECIMALS = {"mean_rank": 1, "ssim": 4, "lpips": 4, "gain": 4, "gain_low": 4, "gain_high": 4, "seconds_per_image": 2}
"""Column -> decimals of its figures; the others are whole numbers and texts."""

LEGEND = (
    "rank: place by mean SSIM among all attacks, mean over settings. alone: settings in which it alone is the worst "
    "case beyond chance: by SSIM, or by LPIPS, the best of all others together is further away, with a 95% interval "
    "over victims that leaves out 0. "
    "gain: SSIM that it adds to the worst case of the others. earns its place: where it is alone so among attackers "
    "who are granted no more than it."
)


def print_portfolio(found: Portfolio, console: Console) -> None:
    """The table, and below it which two attacks to run."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("attack")
    table.add_column("needs")
    for heading in ("rank", "SSIM", "LPIPS", "alone", "gain", "s/image"):
        table.add_column(heading, justify="right")
    table.add_column("earns its place on")
    for row in found.table.to_dict("records"):
        lpips = "-" if row["lpips"] != row["lpips"] else f"{row['lpips']:.2f}"
        figures_ = f"{row['mean_rank']:.1f}", f"{row['ssim']:.2f}", lpips, f"{row['alone']}/{row['settings']}"
        gain = f"{row['gain']:.3f} [{row['gain_low']:.3f}, {row['gain_high']:.3f}]"
        texts = [clean(row["attack"]), row["needs"], *figures_, gain, f"{row['seconds_per_image']:.2f}"]
        table.add_row(*map(Text, [*texts, clean(row["earns_on"], ERROR_LIMIT)]))
    console.print(table)
    for pair in found.pairs:
        console.print(Text(pair.line))
    console.print(Text(LEGEND, style="dim"))


def assert_writable(path: Path) -> None:
    """Refuse a file that is neither a table of values nor one to read.

    Raises:
        DpbenchError: another ending than .csv or .md.
    """
    if path.suffix not in (".csv", ".md"):
        raise DpbenchError(f"--portfolio: cannot write {path.name}; expected FILE.csv or FILE.md")


def write_portfolio(found: Portfolio, path: Path) -> int:
    """Write the table; gives back how many rows it has.

    Raises:
        DpbenchError: see `assert_writable`; or the file cannot be written.
    """
    assert_writable(path)
    text = found.table.copy()
    for column, decimals in DECIMALS.items():
        text[column] = ["" if value != value else f"{value:.{decimals}f}" for value in text[column]]
    content = csv_text(text)
    if path.suffix == ".md":
        page = text.astype(str).map(lambda value: in_markdown(clean(value, ERROR_LIMIT)))
        lines = "".join(f"- {pair.line}\n" for pair in found.pairs)
        content = f"{page.to_markdown(index=False, disable_numparse=True)}\n\n{lines}"
    write_atomically(path, lambda temporary: temporary.write_text(content, encoding="utf-8", newline="\n"))
    return len(text)
