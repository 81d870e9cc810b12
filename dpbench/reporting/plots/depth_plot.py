"""Which split point leaks: what comes back from undefended backbones, against how deep they were cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dpbench.board.cells import cells_of
from dpbench.board.columns import FLOOR, WORST_CASE
from dpbench.contract.threat import THREAT_MODELS, UNDEFENDED
from dpbench.records.record import Record
from dpbench.reporting.plots.plot_style import bars, panels, refuse_ending, style_of
from dpbench.reporting.plots.tradeoff_plot import plotted_rows

LABELS = {"ssim": "worst-case SSIM", "reid_top1": "re-identified (%)"}
SCALE = {"ssim": 1.0, "reid_top1": 100.0}


def depths(records: Sequence[Record]) -> dict[tuple[str, str, str], float]:
    """Data set, backbone, split point, as a board of the records names them -> share of the work that the client does.

    Records before 0.3 do not say.
    """
    return {
        cell.name.group[:3]: float(cell.record.released["client_share"])
        for cell in cells_of(records)
        if "client_share" in cell.record.released and cell.record.cell.defense.name == UNDEFENDED
    }


def write_depth(board: pd.DataFrame, depth: dict[tuple[str, str, str], float], path: Path) -> bool:
    """Worst-case SSIM and re-identification of undefended backbones against the depth of the split point.

    A line is a backbone (beside its name the data set, where there are several); bars are 95% intervals. Drawn is the
    strongest threat model with images like the victims'. The dotted lines are the floors: a copy needs no features.

    Args:
        board: from `dpbench.board.leaderboard`.
        depth: from `depths`, of the same records.
        path: ends in .png, .pdf or .svg.

    Returns:
        Whether it was drawn: not for fewer than two split points of a backbone.
    """
    refuse_ending(path)
    rows = plotted_rows(board)
    rows = rows[(rows["defense"] == UNDEFENDED) & rows["ssim"].notna() & (rows["auxiliary"] == "same")]
    places = zip(rows["dataset"], rows["backbone"], rows["split_point"], strict=True)
    shares = [depth.get(place, math.nan) for place in places]
    rows = rows.assign(depth=pd.Series(shares, index=rows.index, dtype=float)).dropna(subset="depth")
    worst = rows[rows["attack"] == WORST_CASE]
    strength = worst["threat_model"].map(THREAT_MODELS.index)
    worst = worst.assign(strength=strength).sort_values(["strength", "depth"])
    worst = worst.drop_duplicates(["dataset", "backbone", "split_point", "seed"], keep="last")
    lines = [
        (names, line.sort_values("depth"))
        for names, line in worst.groupby(["dataset", "backbone"], sort=False)
        if len(line) > 1
    ]
    if not lines:
        return False
    several = len({names[0] for names, _ in lines}) > 1
    with panels(path, (9.4, 4.4), (1, 2), legend=4) as grid:
        for axes, metric in zip(grid.flat, LABELS, strict=True):
            for number, (names, line) in enumerate(lines):
                colour, marker = style_of(number)
                axes.errorbar(
                    100 * line["depth"],
                    SCALE[metric] * line[metric],
                    yerr=bars(line, metric, SCALE[metric]),
                    color=colour,
                    marker=marker,
                    markersize=5,
                    linewidth=1.4,
                    elinewidth=0.8,
                    label=f"{names[1]} ({names[0]})" if several else str(names[1]),
                )
            for floor in rows[rows["attack"] == FLOOR].groupby("dataset", sort=False)[metric].max().dropna():
                axes.axhline(SCALE[metric] * floor, color="0.35", linewidth=0.9, linestyle=":")
            axes.set_xlabel("depth: share of the network's work done by the client (%)")
            axes.set_ylabel(LABELS[metric])
            axes.set_ylim(0, 1.03 * SCALE[metric])
    return True
