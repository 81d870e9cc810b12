"""What attacks recover against their budget: has the standard one saturated?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from dpbench.board.columns import FLOOR, WORST_CASE
from dpbench.contract.threat import BUDGETS, UNDEFENDED
from dpbench.machine.writing import write_atomically
from dpbench.reporting.plot_style import default_style
from dpbench.reporting.selection import short_arguments, strongest
from dpbench.reporting.tradeoff_plot import PANEL, bars, differing, drawn, refuse_ending, styles_of
from dpbench.suite.ensembles import FLOORS

DASHES = ("-", "--", ":", "-.")


@default_style()
def write_budgets(board: pd.DataFrame, path: Path) -> bool:
    """Mean SSIM of each attack against its budget: a row of panels per attack, a column per split point.

    A line is a defense setting, with 95% intervals; the attacker is the strongest one that was run at that budget.

    Args:
        board: from `dpbench.board.leaderboard`.
        path: ends in .png, .pdf or .svg.

    Returns:
        Whether it was drawn: not for a board with a single budget.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    refuse_ending(path)
    cells = drawn(board)
    floor = cells["attack"].str.split().str[0].isin([FLOOR, WORST_CASE, *FLOORS])
    cells = cells[~floor & cells["ssim"].notna() & (cells["threat_model"] != "static")]
    budgets = [budget for budget in BUDGETS if (cells["budget"] == budget).any()]
    if len(budgets) < 2:
        return False
    attacks = sorted(cells["attack"].unique())
    panels = list(cells.groupby(PANEL, sort=False))
    figure = Figure(figsize=(max(5.2, 4.3 * len(panels)), 2.9 * len(attacks) + 1.0), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(attacks), len(panels), squeeze=False, sharex=True, sharey="row")
    styles = styles_of(cells) | {UNDEFENDED: ("black", "*")}
    handles: dict[str, Any] = {}
    for column, (names, panel) in enumerate(panels):
        short = short_arguments(panel)
        dashes = _dashes(panel)
        for line, attack in enumerate(attacks):
            axes = grid[line, column]
            for setting, rows in panel[panel["attack"] == attack].groupby(["defense", "defense_args"], sort=False):
                colour, marker = styles[str(setting[0])]
                points = pd.concat([strongest(rows[rows["budget"] == budget]) for budget in budgets])
                label = f"{setting[0]} {short[str(setting[0]), str(setting[1])]}".strip()
                x = [budgets.index(budget) for budget in points["budget"]]
                axes.errorbar(
                    x,
                    points["ssim"],
                    yerr=bars(points, "ssim", 1.0),
                    color=colour,
                    marker=marker,
                    fmt=dashes[setting],
                    label=label,
                )
            axes.set_xticks(range(len(budgets)), budgets)
            axes.grid(color="0.92", linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_ylim(min(0, axes.get_ylim()[0]), 1.02)
            if column == 0:
                axes.set_ylabel(f"mean SSIM of {attack}")
            if line == 0:
                split_at = " / ".join(differing(names, [n for n, _ in panels]))
                axes.set_title(f"split at {split_at}", fontsize=10)
            if line == len(attacks) - 1:
                axes.set_xlabel("budget of the attack")
            handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    write_atomically(path, lambda file: figure.savefig(file, dpi=160))
    return True


def _dashes(panel: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Defense setting -> line style: a defense has one colour, its strengths differ in their lines."""
    settings = sorted(set(panel[["defense", "defense_args"]].itertuples(index=False, name=None)))
    same = {name: [setting for setting in settings if setting[0] == name] for name, _ in settings}
    return {setting: DASHES[same[setting[0]].index(setting) % len(DASHES)] for setting in settings}
