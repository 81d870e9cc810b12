"""What attacks recover against their budget: has the standard one saturated?"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from dpbench.board.columns import FLOOR, WORST_CASE
from dpbench.contract.threat import BUDGETS
from dpbench.reporting.plots.plot_style import bars, panels, refuse_ending
from dpbench.reporting.plots.tradeoff_plot import PLACE, UP, differing, plotted_rows, styles_of
from dpbench.reporting.selection import short_arguments, strongest
from dpbench.suite.ensembles import floors

DASHES = ("-", "--", ":", "-.")


def write_budgets(board: pd.DataFrame, path: Path) -> bool:
    """Mean SSIM of each attack against its budget: a row of panels per attack, a column per split point.

    A line is a defense setting, with 95% intervals; the attacker is the strongest one that was run at that budget.

    Args:
        board: from `dpbench.board.leaderboard`.
        path: ends in .png, .pdf or .svg.

    Returns:
        Whether it was drawn: not for a board with a single budget.
    """
    refuse_ending(path)
    cells = plotted_rows(board)
    floor = cells["attack"].str.split().str[0].isin([FLOOR, WORST_CASE, *floors()])
    cells = cells[~floor & cells["ssim"].notna() & (cells["threat_model"] != "static")]
    budgets = [budget for budget in BUDGETS if (cells["budget"] == budget).any()]
    if len(budgets) < 2:
        return False
    attacks = sorted(cells["attack"].unique())
    places = list(cells.groupby(PLACE, sort=False))
    size, shape = (max(5.2, 4.3 * len(places)), 2.9 * len(attacks) + 1.0), (len(attacks), len(places))
    styles = styles_of(cells)
    with panels(path, size, shape, legend=2, sharex=True, sharey="row") as grid:
        for column, (names, panel) in enumerate(places):
            short = short_arguments(panel)
            dashes = _dashes(panel)
            for line, attack in enumerate(attacks):
                axes = grid[line, column]
                for setting, rows in panel[panel["attack"] == attack].groupby(["defense", "defense_args"], sort=False):
                    colour, marker = styles[str(setting[0])]
                    points = pd.concat([strongest(rows[rows["budget"] == budget]) for budget in budgets])
                    axes.errorbar(
                        [budgets.index(budget) for budget in points["budget"]],
                        points["ssim"],
                        yerr=bars(points, "ssim", 1.0),
                        color=colour,
                        marker=marker,
                        fmt=dashes[setting],
                        label=f"{setting[0]} {short[str(setting[0]), str(setting[1])]}".strip(),
                    )
                axes.set_xticks(range(len(budgets)), budgets)
                axes.set_ylim(min(0, axes.get_ylim()[0]), 1.02)
                if column == 0:
                    axes.set_ylabel(f"mean SSIM of {attack}\n{UP}")
                if line == 0:
                    axes.set_title(f"split at {' / '.join(differing(names, [n for n, _ in places]))}", fontsize=10)
                if line == len(attacks) - 1:
                    axes.set_xlabel("budget of the attack")
    return True


def _dashes(panel: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Defense setting -> line style: a defense has one colour, its strengths differ in their lines."""
    settings = sorted(set(panel[["defense", "defense_args"]].itertuples(index=False, name=None)))
    same = {name: [setting for setting in settings if setting[0] == name] for name, _ in settings}
    return {setting: DASHES[same[setting[0]].index(setting) % len(DASHES)] for setting in settings}
