"""An interactive plot of what comes back against what a defense costs the client."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dpbench.contract.threat import UNDEFENDED
from dpbench.report.content import Plot
from dpbench.report.plots import FRONT, METRICS, Short, layout, points
from dpbench.reporting.plots.marks import INK
from dpbench.reporting.plots.pareto_plot import COSTS
from dpbench.tradeoffs.fronts import WITHIN, compared, front, hypervolume, points_of

PER_COST = ("leakage", 1.0)


def costs(title: str, panel: pd.DataFrame, short: Short) -> Plot | None:
    """Leakage against each cost that differs between settings; None where none does.

    Args:
        title: data, backbone and split point.
        panel: all rows of it.
        short: see `dpbench.reporting.selection.short_arguments`.
    """
    rows = compared(panel)
    shown = [cost for cost in COSTS if cost in rows and rows[cost].nunique() > 1]
    if not shown or rows[rows["defense"] != UNDEFENDED].empty:
        return None
    about = (
        f"Lower left is best. The line is the Pareto front of settings that lose at most {100 * WITHIN:.0f} points of "
        "accuracy; hollow points lose more. One figure for accuracy and leakage together, the hypervolume (1 minus the "
        f"least leakage within a loss, averaged over losses up to 10 points): {_areas(rows)}."
    )
    figures = {COSTS[cost]: _figure(title, rows[rows[cost].notna()], cost, short) for cost in shown}
    return Plot(f"Cost and leak: {title}", about, figures, f"Scatter plot of leakage against cost: {title}.")


def _areas(rows: pd.DataFrame) -> str:
    defended = rows[rows["defense"] != UNDEFENDED].groupby("defense", sort=False)
    areas = {str(defense): hypervolume(points_of(own)) for defense, own in defended}
    return ", ".join(f"{name} {areas[name]:.2f}" for name in sorted(areas, key=lambda name: -areas[name]))


def _figure(title: str, rows: pd.DataFrame, cost: str, short: Short) -> dict[str, Any]:
    data: list[dict[str, Any]] = []
    for (defense, dear), own in rows.groupby(["defense", rows["accuracy_drop"] > WITHIN], sort=False):
        listed = own.to_dict("records")
        names = [f"{row['defense']} {short[row['defense'], row['defense_args']]}".strip() for row in listed]
        name = "undefended" if defense == UNDEFENDED else f"{defense}{', loses more' if dear else ''}"
        data.append(points(name, str(defense), listed, names, (cost, 1.0), PER_COST, hollow=bool(dear)))
    competing = rows[rows["accuracy_drop"] <= WITHIN]
    best = [points_of(competing, cost)[place] for place in front(points_of(competing, cost))]
    line: dict[str, Any] = {"type": "scatter", "mode": "lines", "name": FRONT, "hoverinfo": "skip"}
    line |= {"x": [spent for spent, _ in best], "y": [leak for _, leak in best]}
    data.insert(0, line | {"line": {"color": INK, "width": 1.2, "dash": "dot", "shape": "hv"}})
    frame = layout(title, COSTS[cost], f"worst-case {METRICS[PER_COST[0]][0]}")
    return {"data": data, "layout": frame}
