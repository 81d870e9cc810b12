"""Which defense to choose: leakage against accuracy and against what it costs, with the fronts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dpbench.board.columns import LOSSES
from dpbench.contract.threat import UNDEFENDED
from dpbench.reporting.plots.plot_style import bars, note, panels, refuse_ending
from dpbench.reporting.plots.tradeoff_plot import (
    PLACE,
    UP,
    by_strength,
    differing,
    legend_names,
    plotted_rows,
    styles_of,
)
from dpbench.tradeoffs.fronts import WITHIN, compared, front, hypervolume, points_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COSTS = {
    "client_multiply_adds": "multiply-adds of the client, an image",
    "added_multiply_adds": "multiply-adds that the defense adds, an image",
    "added_parameters": "parameters that the defense adds",
    "release_bits": "bits of a release, fixed length",
    "coded_bits": "bits of a release, entropy-coded",
}
"""Column of a board -> what its axis is called."""

ACCURACY = "accuracy_drop"

MOST_TOLD = 6
"""So many hypervolumes are written on a panel, the largest first."""

ABREAST = 3
"""Panels of one place beside each other, at most."""

MOST_NOTED = 24
"""Settings in a panel beyond which only those on its front are named: each beside its point would cover the others."""


def write_pareto(board: pd.DataFrame, path: Path) -> bool:
    """Leakage against accuracy, and against each cost on the board that differs between settings, with the fronts.

    A column is a data set, backbone and split point; of a single one the panels stand in rows. Dotted steps are the
    front over all defenses: of costs over those settings that lose at most 5 points of accuracy; others are pale.
    Beside accuracy a line joins the front of one defense, where one number alone varies; thin vertical lines stand
    where 1, 3 and 5 points are lost, and each defense has its hypervolume written, see `dpbench.tradeoffs.fronts`.
    Bars are 95% intervals. Strengths stand beside their points; of many, those on the front alone are named.

    Args:
        board: from `dpbench.board.leaderboard`.
        path: ends in .png, .pdf or .svg.

    Returns:
        Whether it was drawn: not where no defended setting has an accuracy lost and a leakage.
    """
    refuse_ending(path)
    rows = compared(plotted_rows(board))
    if rows[rows["defense"] != UNDEFENDED].empty:
        return False
    places = list(rows.groupby(PLACE, sort=False))
    costs = [ACCURACY, *(cost for cost in COSTS if cost in rows and _differs(places, cost))]
    side_by_side = len(places) == 1
    shape = (-(-len(costs) // ABREAST), min(ABREAST, len(costs))) if side_by_side else (len(costs), len(places))
    width = max(5.2, 4.3 * shape[1])
    styles, called = styles_of(rows), legend_names(rows)
    sharing: dict[str, Any] = {"sharey": "all", "sharex": "none" if side_by_side else "row"}
    with panels(path, (width, 3.5 * shape[0] + 1.0), shape, legend=max(2, int(width // 2.4)), **sharing) as grid:
        for axes in grid.flat[len(costs) * len(places) :]:
            axes.set_axis_off()
        for column, (names, panel) in enumerate(places):
            for line, cost in enumerate(costs):
                axes = grid.flat[line] if side_by_side else grid[line, column]
                _draw(axes, panel, cost, styles, called)
                if line == 0:
                    axes.set_title(f"split at {' / '.join(differing(names, [n for n, _ in places]))}", fontsize=10)
                if axes.get_subplotspec().is_first_col():
                    axes.set_ylabel(f"leakage (0 floor, 1 undefended)\n{UP}")
    return True


def _differs(places: list[tuple[Any, pd.DataFrame]], cost: str) -> bool:
    return any(panel[cost].nunique() > 1 for _, panel in places)


def _draw(
    axes: Axes, panel: pd.DataFrame, cost: str, styles: dict[str, tuple[str, str]], called: dict[str, str]
) -> None:
    panel = panel[panel[cost].notna()]
    if cost == ACCURACY:
        axes.set_xlabel("points of accuracy lost (left = predicts better)")
        for loss in LOSSES:
            axes.axvline(loss, color="0.75", linewidth=0.7, zorder=0)
    else:
        axes.set_xlabel(f"{COSTS[cost]}\n(pale: loses over {100 * WITHIN:.0f} points)")
        _scale(axes, panel[cost].astype(float))
    crowded = len(panel) > MOST_NOTED
    for defense, rows in panel.groupby("defense", sort=False):
        label = called[str(defense)] if cost == ACCURACY else None
        _family(axes, rows, cost, styles[str(defense)], label=label, noted=not crowded)
    if cost == ACCURACY:
        _hypervolumes(axes, panel[panel["defense"] != UNDEFENDED])
    competing = panel if cost == ACCURACY else panel[panel[ACCURACY] <= WITHIN]
    best = competing.iloc[front(points_of(competing, cost))]
    axes.step(_x(best, cost), best["leakage"], where="post", color="0.2", linestyle=":", linewidth=1.4, label="front")
    if crowded:
        named = best[best["defense"] != UNDEFENDED]
        for defense, x, leak, text in zip(
            named["defense"], _x(named, cost), named["leakage"], _in_full(named, panel), strict=True
        ):
            note(axes, text, (x, leak), styles[defense][0])
    axes.margins(x=0.12)
    axes.set_ylim(-0.03, 1.06)


def _in_full(rows: pd.DataFrame, panel: pd.DataFrame) -> list[str]:
    """`gaussian 0.5` for some rows of a panel, by what varies within each defense there."""
    strengths = pd.concat([by_strength(own)[1]["strength"] for _, own in panel.groupby("defense", sort=False)])
    given = strengths[rows.index].str.replace(r"(^|,)-(?=,|$)", "", regex=True)  # where a setting has none of it
    return [f"{defense} {strength}".strip() for defense, strength in zip(rows["defense"], given, strict=True)]


def _hypervolumes(axes: Axes, rows: pd.DataFrame) -> None:
    areas = {str(defense): hypervolume(points_of(own)) for defense, own in rows.groupby("defense", sort=False)}
    best = sorted(areas, key=lambda defense: -areas[defense])[:MOST_TOLD]
    text = "\n".join(["hypervolume", *(f"{defense} {areas[defense]:.2f}" for defense in best)])
    place: dict[str, Any] = {
        "transform": axes.transAxes,
        "ha": "right",
        "va": "top",
        "fontsize": 7,
        "color": "0.35",
        "zorder": 1.8,  # on the grid, below points
    }
    axes.text(0.99, 0.99, text, **place, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5})


def _scale(axes: Axes, costs: pd.Series[float]) -> None:
    above = costs[costs > 0]
    if len(above) and costs.max() > 10 * above.min():
        axes.set_xscale("symlog", linthresh=float(above.min()))  # it has a place for what costs nothing
    else:
        axes.locator_params(axis="x", nbins=5)  # large numbers side by side cover each other


def _x(rows: pd.DataFrame, cost: str) -> Any:
    return (100 if cost == ACCURACY else 1) * rows[cost].to_numpy(float)


def _family(
    axes: Axes, rows: pd.DataFrame, cost: str, style: tuple[str, str], *, label: str | None, noted: bool
) -> None:
    """The points of one defense, with their strengths; beside accuracy the line of its front, too."""
    colour, marker = style
    parameter, rows, curve = by_strength(rows)
    accuracy = cost == ACCURACY
    for pale, points in rows.groupby((rows[ACCURACY] > WITHIN) & (not accuracy)):
        axes.errorbar(
            _x(points, cost),
            points["leakage"],
            xerr=bars(points, cost, 100.0) if accuracy else None,
            yerr=bars(points, "leakage", 1.0),
            fmt=marker,
            color=colour,
            markersize=11 if marker == "*" else 5.5,  # the star is the undefended model's
            markerfacecolor="white" if pale else colour,
            elinewidth=0.8,
            alpha=0.35 if pale else 0.85,
            label=label,
        )
    if accuracy and curve and len(rows) > 1:
        own = rows.iloc[front(points_of(rows))]
        axes.plot(_x(own, cost), own["leakage"], color=colour, linewidth=1.4)
    if parameter and noted:
        for x, leak, strength in zip(_x(rows, cost), rows["leakage"], rows["strength"], strict=True):
            note(axes, strength, (x, leak), colour)
