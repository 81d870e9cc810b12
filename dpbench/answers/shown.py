"""Advice as a table, as a CSV and as a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from dpbench.answers.advice import Advice, Cut
from dpbench.machine.writing import write_atomically
from dpbench.reporting.plots.plot_style import COLOURS, note, panels
from dpbench.service.costs import TIMED
from dpbench.text.shown_text import clean, drawn

NOT_SHOWN = (
    "Undefended, and by two attacks of seconds: a low SSIM here is no promise. It does not show what longer or "
    "white-box attacks recover, what a defense changes, or other images: `dpbench run` measures that, for the cut you "
    "choose."
)

COLUMNS = (
    *("split_point", "front", "client_multiply_adds", "client_share", "client_parameters", "bits"),
    *("milliseconds", "probe_accuracy", "network_accuracy", "ssim", "ssim_low", "ssim_high"),
    *("ssim_closed_form", "ssim_decoder", "ssim_floor"),
)


def print_advice(advice: Advice, console: Console) -> None:
    """The table, what it was measured on, and what it does not show."""
    title = f"{clean(advice.backbone)}, {clean(advice.data)} {advice.image_size} x {advice.image_size}"
    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0), header_style="", title_justify="left")
    for name in (
        "  cut",
        "M mult-adds",
        "k params",
        "kbit",
        f"ms/{TIMED}",
        "probe",
        "ridge",
        "decoder",
        "SSIM, better",
    ):
        table.add_column(name, justify="left" if name == "  cut" else "right", no_wrap=name != "SSIM, better")
    for cut in advice.cuts:
        cost, (mean, low, high) = cut.cost, cut.ssim
        table.add_row(
            f"{'* ' if cut.front else '  '}{clean(cut.split_point)}",
            _counted(cost.multiply_adds, 1e6),
            _counted(cost.parameters, 1e3),
            f"{cost.bits / 1e3:,.0f}",
            f"{cost.milliseconds:.1f}",
            f"{cut.probe:.1%}",
            f"{cut.by_attack['closed form']:.2f}",
            f"{cut.by_attack['decoder']:.2f}",
            f"{mean:.2f} [{low:.2f}, {high:.2f}]",
        )
    console.print(table)
    lines = [
        f"* on the front: no other cut leaks less for no more client work and bits. Work and bits are of one image, "
        f"which has {3 * advice.image_size**2 * 8 / 1000:,.0f} kbit; milliseconds are of {TIMED} images, on this "
        "machine.",
        f"The network itself names {advice.accuracy:.1%} (weights: {clean(advice.weights)}); the attacker's mean image "
        f"reaches SSIM {advice.floor:.2f}. Taught by {advice.images} images, {advice.victims} victims, "
        f"{advice.seconds:.0f} s.",
        *dict.fromkeys(f"not counted: {clean(cut.cost.uncounted)}" for cut in advice.cuts if cut.cost.uncounted),
        *(f"left out: {clean(line)}" for line in advice.left_out),
        NOT_SHOWN,
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _counted(count: int | None, unit: float) -> str:
    return "n/a" if count is None else f"{count / unit:,.1f}"


def as_csv(advice: Advice) -> str:
    """One row for each cut, columns in `COLUMNS`."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(_row(cut, advice) for cut in advice.cuts)
    return text.getvalue()


def _row(cut: Cut, advice: Advice) -> dict[str, Any]:
    cost, (mean, low, high) = cut.cost, cut.ssim
    figures: dict[str, float | None] = {
        "client_share": cost.share,
        "milliseconds": cost.milliseconds,
        "probe_accuracy": cut.probe,
        "network_accuracy": advice.accuracy,
        "ssim": mean,
        "ssim_low": low,
        "ssim_high": high,
        "ssim_closed_form": cut.by_attack["closed form"],
        "ssim_decoder": cut.by_attack["decoder"],
        "ssim_floor": advice.floor,
    }
    return {
        "split_point": cut.split_point,
        "front": "yes" if cut.front else "no",
        "client_multiply_adds": cost.multiply_adds,
        "client_parameters": cost.parameters,
        "bits": cost.bits,
        **{name: "" if value is None else f"{value:.4f}" for name, value in figures.items()},
    }


def write_advice(advice: Advice, folder: Path) -> list[Path]:
    """`advice.csv` and `advice.png` in a folder."""
    text = as_csv(advice)
    table, picture = folder / "advice.csv", folder / "advice.png"
    write_atomically(table, lambda path: path.write_text(text, encoding="utf-8", newline="\n"))
    write_picture(advice, picture)
    return [table, picture]


def write_picture(advice: Advice, path: Path) -> None:
    """What comes back against what the client computes, and against what it sends; the front is filled."""
    figures: dict[str, Callable[[Cut], int | None]] = {
        "client multiply-adds": lambda cut: cut.cost.multiply_adds,
        "bits sent of an image": lambda cut: cut.cost.bits,
    }
    with panels(path, (9, 4), (1, 2), sharey=True) as grid:
        for axes, (label, value) in zip(grid[0], figures.items(), strict=True):
            for cut in advice.cuts:
                mean, low, high = cut.ssim
                where = value(cut)
                if where is None:
                    continue
                place = (max(1, where), mean)
                filled = COLOURS[0] if cut.front else "white"
                ends = [[mean - low], [high - mean]]
                axes.errorbar(*place, yerr=ends, color=COLOURS[0], marker="o", markerfacecolor=filled)
                note(axes, drawn(cut.split_point), place, COLOURS[0])
            axes.axhline(advice.floor, color="0.5", linestyle=":", linewidth=1)
            axes.set_xscale("log")
            axes.margins(x=0.15)
            axes.set_xlabel(label)
        grid[0][0].set_ylabel("SSIM, the better of two quick attacks")
        grid[0][0].set_title(drawn(f"{advice.backbone}: where to split"), fontsize=9)
        grid[0][1].set_title("filled: on the front; dotted: the mean image", fontsize=9)
