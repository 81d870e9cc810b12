"""The trade-off of a board as a plot: task accuracy against what the attacks recover."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dpbench.board.caveats import made_of, metrics_of
from dpbench.board.columns import FLOOR, WORST_CASE, arguments_of, headline_of
from dpbench.contract.threat import THREAT_MODELS, UNDEFENDED
from dpbench.metrics.table import CALIBRATED
from dpbench.reporting.plots.marks import style_of_defense
from dpbench.reporting.plots.plot_style import NAMED, bars, legible, note, panels
from dpbench.reporting.selection import server_of
from dpbench.suite.names import varying
from dpbench.tradeoffs.fronts import of_one_leakage

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UP = "up = leaks more"

LABELS = {
    "identity_top1": "identified by other images",
    "reid_top1": "re-identified",
    "ssim": "worst-case SSIM",
    "leakage": "leakage (0 floor, 1 undefended)\n0 is no privacy: see re-identification",
}
PLACE = ["dataset", "backbone", "split_point"]
"""Columns that say what a panel of a plot is about."""


def write_tradeoff(board: pd.DataFrame, path: Path) -> None:
    """Accuracy against worst-case SSIM, and against leakage or what else the board is about: a panel per split point.

    Beside leakage stands re-identification, where it was measured: leakage 0 is the floor of the picture metrics, and
    may name every victim. Settings whose leakage is made of other metrics than the undefended model's are left out
    there.

    A line is a defense over one parameter; where several vary, points stand alone. Filled and solid is the strongest
    threat model, hollow and dashed the static tier. The undefended model and the floor are reference lines. Bars are
    95% intervals. Axes are alike in all panels. Drawn are attackers with images like the victims' and the most
    releases, measured rows only; all seeds together where there are several.

    Args:
        board: from `dpbench.board.leaderboard`.
        path: ends in .png, .pdf or .svg.
    """
    board = plotted_rows(board)
    worst = board[(board["attack"] == WORST_CASE) & board["accuracy"].notna() & board["ssim"].notna()]
    if (worst["auxiliary"] == "same").any():
        worst = worst[worst["auxiliary"] == "same"]
    # a setting that always releases the same has one release, beside others with more; likewise with the server
    worst = worst.assign(holds_server=server_of(worst) == "")
    worst = worst.sort_values(["holds_server", "releases"], kind="stable").drop_duplicates(
        [*PLACE, "defense", "defense_args", "threat_model", "seed"], keep="last"
    )
    worst = worst.sort_index()
    if worst.empty:
        # not an error: a run whose attacks all failed still ends with its table and its reasons
        with panels(path, (5.2, 1.2), (1, 1), ruled=False) as grid:
            grid[0, 0].set_axis_off()
            grid[0, 0].text(0.5, 0.5, "no attack finished: nothing to plot", ha="center", va="center")
        return
    about = headline_of(board)
    # leakage is made of SSIM among others: beside another headline SSIM says enough
    metrics = ["ssim", "leakage", "reid_top1"] if about in ("ssim", "leakage") else [about, "ssim"]
    metrics = [metric for metric in metrics if metric == "ssim" or worst[metric].notna().any()]
    places = list(worst.groupby(PLACE, sort=False))
    # several split points: one column each; a single one: its metrics side by side
    side_by_side = len(places) == 1
    shape = (1, len(metrics)) if side_by_side else (len(metrics), len(places))
    width = max(5.2, 4.3 * shape[1])
    styles, called = styles_of(worst), legend_names(worst)
    sharing: dict[str, Any] = {"sharey": "all" if side_by_side else "row", "sharex": "all"}
    legend: dict[str, Any] = {"legend": int(width // 2.1), "order": _legend_order}
    with panels(path, (width, 3.5 * shape[0] + 1.0), shape, **legend, **sharing) as grid:
        for column, (names, panel) in enumerate(places):
            same = [board[key] == name for key, name in zip(PLACE, names, strict=True)]
            rows = board[same[0] & same[1] & same[2]]
            for line, metric in enumerate(metrics):
                axes = grid[0, line] if side_by_side else grid[line, column]
                shown = of_one_leakage(panel) if metric == "leakage" else panel
                _references(axes, shown, rows, metric)
                _lines(axes, shown, metric, styles, called)
                if metric == "leakage":
                    _say_made_of(axes, shown)
                axes.margins(x=0.12, y=0.08)
                axes.set_ylim(min(-0.03, axes.get_ylim()[0]), max(1.06, axes.get_ylim()[1]))
                if column == 0:
                    axes.set_ylabel(f"{LABELS[metric]}\n{UP}")
                if line == 0 or side_by_side:
                    title = " / ".join(differing(names, [n for n, _ in places]))
                    axes.set_title(f"split at {title}", fontsize=10)
                if line == len(metrics) - 1 or side_by_side:
                    axes.set_xlabel("top-1 accuracy (%)")


def plotted_rows(board: pd.DataFrame) -> pd.DataFrame:
    """Measured rows and, marked, one's own beside them; of a panel with several seeds those that take all together."""
    board = legible(board[board["origin"] != "claimed"])
    own = board["origin"].str.startswith("own")
    board = board.assign(**{name: board[name].where(~own, board[name] + " (own)") for name in ("defense", NAMED)})
    together = board.groupby(PLACE)["seed"].transform(lambda seeds: (seeds == "all").any()).astype(bool)
    return board[~together | (board["seed"] == "all")]


def _legend_order(name: str) -> tuple[bool, bool, str]:
    return "static" in name, name not in ("undefended", "floor"), name


def differing(names: Any, all_names: list[Any]) -> list[str]:
    """Of dataset, backbone and split point those that differ between panels; the split point always."""
    keep = [i for i in range(len(names)) if i == 2 or len({other[i] for other in all_names}) > 1]
    return [str(names[i]) for i in keep]


def styles_of(rows: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Defense, as it is called -> colour and marker, which go by its name."""
    return {str(label): style_of_defense(str(name)) for label, name in zip(rows["defense"], rows[NAMED], strict=True)}


def legend_names(rows: pd.DataFrame) -> dict[str, str]:
    """Defense -> what the legend calls it: with the parameters in which its settings differ, in whatever panel."""
    varied = {str(defense): by_strength(points)[0] for defense, points in rows.groupby("defense")}
    called = {defense: f"{defense} ({parameters})" if parameters else defense for defense, parameters in varied.items()}
    return called | {UNDEFENDED: "undefended"}


def _references(axes: Axes, panel: pd.DataFrame, rows: pd.DataFrame, metric: str) -> None:
    undefended = panel[(panel["defense"] == UNDEFENDED) & panel[metric].notna()]
    if not undefended.empty:
        best: Any = undefended.sort_values(metric).iloc[-1]
        axes.axhline(best[metric], color="0.35", linewidth=0.8, linestyle=":")
        axes.axvline(100 * best["accuracy"], color="0.35", linewidth=0.8, linestyle=":")
        axes.plot(100 * best["accuracy"], best[metric], "*", color="black", markersize=11, label="undefended")
    floor = rows[rows["attack"] == FLOOR][metric].dropna()
    if len(floor):
        axes.axhline(floor.max(), color="0.35", linewidth=0.9, linestyle="-.", label="floor")


def _lines(
    axes: Axes, panel: pd.DataFrame, metric: str, styles: dict[str, tuple[str, str]], called: dict[str, str]
) -> None:
    strongest = max(panel["threat_model"], key=THREAT_MODELS.index)
    for threat_model in dict.fromkeys(("static", strongest)):
        tier = panel[(panel["threat_model"] == threat_model) & (panel["defense"] != UNDEFENDED)]
        tier = tier[tier[metric].notna()]
        headline = threat_model == strongest
        for (defense, _), points in tier.groupby(["defense", "seed"]):
            colour, marker = styles[str(defense)]
            parameter, points, curve = by_strength(points)
            x, y = (100 * points["accuracy"]).to_numpy(), points[metric].to_numpy()
            axes.errorbar(
                x,
                y,
                xerr=bars(points, "accuracy", 100.0) if headline else None,
                yerr=bars(points, metric, 1.0),
                fmt="none",
                ecolor=colour,
                elinewidth=0.8,
                alpha=0.45,
            )
            axes.plot(
                x,
                y,
                color=colour,
                marker=marker,
                markersize=5.5,
                linewidth=1.4 if headline else 1.0,
                linestyle=("-" if headline else "--") if curve else "none",
                markerfacecolor=colour if headline else "white",
                label=called[str(defense)] if headline else f"{defense}, static attacker",
            )
            if headline and parameter:
                for place, strength in zip(zip(x, y, strict=True), points["strength"], strict=True):
                    note(axes, strength, place, colour)


def _say_made_of(axes: Axes, panel: pd.DataFrame) -> None:
    """Write on the axes, small, which metrics leakage is made of, where these are not all."""
    labels = {metrics_of(label) for label in panel.get("leakage_metrics", []) if label}
    if labels and labels != {tuple(CALIBRATED)}:
        text = f"from {made_of(' '.join(labels.pop()))}"
        axes.text(0.99, 0.01, text, transform=axes.transAxes, ha="right", va="bottom", fontsize=7, color="0.35")


def by_strength(points: pd.DataFrame) -> tuple[str, pd.DataFrame, bool]:
    """The parameter that varies, the points ordered by it, and whether they are a curve: one number alone varies.

    Ordered by accuracy where several vary or none does.
    """
    known = arguments_of(points)
    arguments = [known.get(text, {}) for text in points["defense_args"]]
    varied = varying(arguments)
    points = points.assign(strength=[",".join(given.get(name, "-") for name in varied) for given in arguments])
    numbers = pd.to_numeric(points["strength"], errors="coerce")
    if len(varied) == 1 and numbers.notna().all():
        return varied[0], points.assign(number=numbers).sort_values("number"), True
    return ",".join(varied), points.sort_values(["accuracy", "strength"]), False
