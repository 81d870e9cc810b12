"""What is gained against what leaks, and the transfer matrix: as files, and for the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dpbench.errors import DpbenchError
from dpbench.protocols.sharing.reporting.columns import FLOOR, varied_arguments
from dpbench.protocols.sharing.reporting.transfer import matrices
from dpbench.report.content import Plot
from dpbench.report.plots import METRICS, escaped, layout, points
from dpbench.reporting.plots.marks import style_of_defense
from dpbench.reporting.plots.plot_style import NAMED, bars, legible, note, panels, refuse_ending
from dpbench.reporting.plots.tradeoff_plot import differing
from dpbench.suite.names import arguments_text
from dpbench.text.shown_text import drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RECEIVERS = ["dataset", "backbone", "split_point", "receiver"]
FRAME: dict[str, tuple[str, Any]] = {
    "own": ("own data only", "-"),
    "clean-images": ("+ clean images", "--"),
    "own-longer": ("own data, more epochs", ":"),
    "sender-tail": ("the sender's tail, no features", (0, (5, 1, 1, 1))),
    "soft-labels": ("+ the sender's soft labels", (0, (1, 1))),
}
"""Conditions without attacked features, drawn as lines -> their legend entry, and the line."""
LEAKS = {
    "ssim": "worst-case SSIM",
    "leakage": "leakage (0 floor: no privacy, 1 undefended)",
    "reid_top1": "re-identified",
}
"""Columns that say what leaks -> axis label; beside leakage stands re-identification, since leakage 0 is no privacy."""
TRANSFERRED = {"ssim": "mean SSIM", "reid_top1": "re-identified"}
"""Figures of the transfer matrix, in words."""
CONTROLS = {"shuffled-labels": ("x", "labels shuffled"), "equal-noise": ("+", "noise of the same power")}


def write_benefit(board: pd.DataFrame, path: Path) -> None:
    """What the receiver gained against worst-case SSIM, leakage and re-identification of what was shared with it.

    A point is a defense setting, filled: the attacker who knows most; hollow: the one who knows the public head alone.
    The frame: own data only, and clean images. Bars are 95% intervals over images and seeds, of the gain paired with
    own data only.

    Args:
        board: from `dpbench.protocols.sharing.reporting.board`.
        path: ends in .png, .pdf or .svg.

    Raises:
        DpbenchError: the board holds no features that were both trained on, beside own data only, and attacked.
    """
    refuse_ending(path)
    board = legible(board)
    receivers = list(board.groupby(RECEIVERS, sort=False))
    both = board["gain"].notna() & board["ssim"].notna()
    if not both.any():
        raise DpbenchError(
            "--plot benefit: these runs hold no shared features that were both trained on and attacked, beside own "
            "data only; run the suite without --only"
        )
    shown = [metric for metric in LEAKS if metric != "reid_top1" or board[metric].notna().any()]
    size, shape = (5.2 * len(shown), 4.4 * len(receivers) + 0.9), (len(receivers), len(shown))
    short = varied_arguments(board[both & (board["condition"] == "defended-features")])
    places = [names[: RECEIVERS.index("receiver")] for names, _ in receivers]
    with panels(path, size, shape, legend=5, sharex="all", sharey="row") as grid:
        for line, (names, rows), here in zip(grid, receivers, places, strict=True):
            if len(set(places)) > 1:
                line[0].set_title(drawn(f"split at {' / '.join(differing(here, places))}"), fontsize=10, loc="left")
            for axes, metric in zip(line, shown, strict=True):
                _frame(axes, rows)
                _points(axes, rows, metric, short)
                axes.set_xlabel(f"what leaks of the shared images:\n{LEAKS[metric]}")
                axes.set_ylabel(f"gain of {names[3]} (points of top-1)")
                axes.set_xlim(min(-0.03, axes.get_xlim()[0]), max(1.06, axes.get_xlim()[1]))


def _frame(axes: Axes, rows: pd.DataFrame) -> None:
    for condition, (label, style) in FRAME.items():
        found = rows[rows["condition"] == condition]["gain"].dropna()
        if len(found):
            axes.axhline(100 * found.iloc[0], color="0.3", linewidth=1.0, linestyle=style, label=label)


def _points(axes: Axes, rows: pd.DataFrame, metric: str, short: dict[Any, dict[str, str]]) -> None:
    floor = rows[rows["condition"] == FLOOR][metric].dropna()
    if len(floor):
        axes.axvline(floor.iloc[0], color="0.35", linewidth=0.9, linestyle="-.", label="floor")
    clean = rows[(rows["condition"] == "clean-features") & rows[metric].notna()]
    if len(clean):
        axes.plot(clean[metric], 100 * clean["gain"], "*", color="black", markersize=12, label="clean features")
    defended = rows[(rows["condition"] == "defended-features") & rows[metric].notna() & rows["gain"].notna()]
    for defense, settings in defended.groupby("defense", sort=True):
        colour, marker = style_of_defense(str(settings[NAMED].iloc[0]))
        settings = settings.sort_values(metric)
        x, y = settings[metric].to_numpy(float), 100 * settings["gain"].to_numpy(float)
        axes.errorbar(
            x,
            y,
            xerr=bars(settings, metric, 1.0),
            yerr=bars(settings, "gain", 100.0),
            fmt=marker,
            color=colour,
            markersize=6,
            elinewidth=0.7,
            label=_legend(str(defense), [short[place] for place in settings.index]),
        )
        if metric == "ssim" and settings["ssim_public"].notna().any():
            axes.plot(
                settings["ssim_public"], y, marker, color=colour, markersize=6, markerfacecolor="white", zorder=1.5
            )
            axes.plot([], [], "o", color="0.4", markerfacecolor="white", label="knows the public head alone")
            for hollow, filled, height in zip(settings["ssim_public"], x, y, strict=True):
                axes.plot([hollow, filled], [height, height], color=colour, linewidth=0.6, alpha=0.5, zorder=1)
        for place, setting in settings.iterrows():
            note(axes, ", ".join(short[place].values()), (setting[metric], 100 * setting["gain"]), colour)
            for control, (sign, label) in CONTROLS.items():
                same = rows[(rows["condition"] == control) & (rows["defense_args"] == setting["defense_args"])]
                same = same[(same["defense"] == defense) & same["gain"].notna()]
                if len(same):
                    axes.plot(setting[metric], 100 * same["gain"].iloc[0], sign, color=colour, label=label)


def _legend(defense: str, given: list[dict[str, str]]) -> str:
    """Legend entry of a defense: its name, and the parameters whose values stand beside its points."""
    names = dict.fromkeys(name for arguments in given for name in arguments)
    return f"{defense} ({', '.join(names)})" if names else defense


def write_transfer(transfer: pd.DataFrame, path: Path) -> None:
    """The transfer matrix as a picture, mean SSIM and re-identification; a row is what the attacker could query.

    Args:
        transfer: from `dpbench.protocols.sharing.reporting.transfer`.
        path: ends in .png, .pdf or .svg.

    Raises:
        DpbenchError: there is none.
    """
    refuse_ending(path)
    attacked = list(matrices(transfer))
    if not attacked:
        raise DpbenchError("--plot transfer: these runs hold no transfer; add a table [transfer] to the suite")
    heights = [0.8 + 0.55 * len(matrix["ssim"]) for _, matrix in attacked]
    size, shape = (9.0, 0.9 + sum(heights)), (len(attacked), 2)
    with panels(path, size, shape, ruled=False, height_ratios=heights) as grid:
        for line, (names, matrix) in zip(grid, attacked, strict=True):
            for axes, (metric, label) in zip(line, TRANSFERRED.items(), strict=True):
                cells = matrix[metric]
                image = axes.imshow(cells.to_numpy(float), cmap="viridis", vmin=0, vmax=1, aspect="auto")
                for (row, column), value in np.ndenumerate(cells.to_numpy(float)):
                    if np.isfinite(value):
                        text = f"{value:.2f}" if metric == "ssim" else f"{value:.0%}"
                        colour = "black" if value > 0.6 else "white"
                        axes.text(column, row, text, ha="center", va="center", color=colour)
                axes.set_xticks(range(len(cells.columns)), cells.columns)
                axes.set_yticks(range(len(cells)), cells.index)
                axes.set_xlabel("judged on the features released by")
                axes.set_ylabel("prepared on")
                axes.set_title(f"{drawn(names)}: {label}", fontsize=10)
                axes.figure.colorbar(image, ax=axes, shrink=0.8)


def gain_and_leak(title: str, rows: pd.DataFrame) -> Plot | None:
    """What leaks against what is gained, for the page; None where nothing was both trained on and attacked.

    Args:
        title: data, network, receiver and senders.
        rows: of one receiver.
    """
    shown = rows[rows["condition"].isin(["defended-features", "clean-features"]) & rows["gain"].notna()]
    figures = {}
    for metric in ("ssim", "leakage", "reid_top1"):
        label, scale = METRICS[metric]
        given = shown[shown[metric].notna()]
        if given.empty:
            continue
        short = varied_arguments(given)
        data = []
        for defense, own in given.groupby("defense", sort=False):
            labels = [
                f"{row['defense'] or 'clean features'} {arguments_text(short[place])}".strip()
                for place, row in own.iterrows()
            ]
            name = str(defense) or "clean features"
            listed = own.to_dict("records")
            data.append(points(name, str(defense), listed, labels, ("gain", 100.0), (metric, scale)))
        figures[label] = {"data": data, "layout": layout(title, "gain (points of top-1)", f"worst-case {label}")}
    if not figures:
        return None
    about = (
        "Each point is a defense: right gains more from what was shared, up leaks more of it, so the lower right "
        "corner is best. Bars are 95% intervals."
    )
    return Plot(f"Gain and leak: {title}", about, figures, f"What leaks against what is gained: {title}.")


def transfers(transfer: pd.DataFrame) -> Iterator[Plot]:
    """The transfer matrix for the page, a plot for each attack on a sender's defense.

    Args:
        transfer: from `dpbench.protocols.sharing.reporting.transfer`.
    """
    for names, matrix in matrices(transfer):
        figures = {}
        for metric, label in TRANSFERRED.items():
            cells = matrix[metric].to_numpy(float)
            if not np.isfinite(cells).any():
                continue
            values = [[None if np.isnan(value) else round(float(value), 4) for value in row] for row in cells]
            told: dict[str, Any] = {
                "texttemplate": "%{z:.2f}",
                "hovertemplate": "prepared on %{y}, judged on %{x}: %{z:.3f}<extra></extra>",
            }
            heat: dict[str, Any] = {
                "type": "heatmap",
                "z": values,
                "x": list(matrix[metric].columns),
                "y": list(matrix[metric].index),
            }
            heat |= told | {"zmin": 0, "zmax": 1, "colorscale": "Viridis", "name": label, "colorbar": {"thickness": 12}}
            axes: dict[str, Any] = {"xaxis": {"title": {"text": "judged on the features released by"}}}
            axes |= {"yaxis": {"title": {"text": "prepared on"}, "autorange": "reversed"}}
            axes |= {"title": {"text": escaped(f"{names}: {label}")}}
            figures[label] = {"data": [heat], "layout": axes}
        about = (
            "An attack prepared on one fit of the defense, and judged on what another fit released: where it gets as "
            "far as on its own fit, secrecy of the fit protects nothing. A lighter field leaks more."
        )
        if figures:
            yield Plot(f"Transfer between fits: {names}", about, figures, f"Matrix of transfer between fits: {names}.")
