"""What all plots share: panels that look the same on every machine, colours, intervals, and names that can be drawn."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.console import Console

from dpbench.board.columns import arguments_of, with_arguments
from dpbench.contract.threat import UNDEFENDED
from dpbench.errors import DpbenchError, debug, reason, unknown
from dpbench.machine.writing import write_atomically
from dpbench.text.shown_text import clean, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
"""Okabe and Ito: told apart by colour-blind readers; markers differ too, for print in grey."""

MARKERS = "osD^vPX"

PLOTTED = (".png", ".pdf", ".svg")
"""Endings of plots."""

NAMES = ("dataset", "backbone", "split_point", "defense", "defense_args", "attack", "receiver", "senders")
"""Columns of boards whose text is drawn."""


@contextmanager
def panels(
    path: Path,
    size: tuple[float, float],
    shape: tuple[int, int],
    *,
    legend: int = 0,
    order: Callable[[str], Any] | None = None,
    ruled: bool = True,
    **sharing: Any,
) -> Iterator[Any]:
    """Axes to draw on, written to `path` with one legend below all of them once the block has drawn.

    Args:
        path: ends in .png, .pdf or .svg.
        size: width and height in inches.
        shape: rows and columns of axes.
        legend: entries beside each other; 0 for no legend.
        order: sorts the entries by their label; by default they stand as they come, column by column.
        ruled: with a grid, and without the frame's upper and right line.
        sharing: further arguments of `matplotlib.figure.Figure.subplots`.

    Yields:
        An array (rows, columns) of `matplotlib.axes.Axes`.

    Raises:
        DpbenchError: the path has another ending.
    """
    refuse_ending(path)
    with default_style():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(*shape, squeeze=False, **sharing)
        for axes in grid.flat if ruled else ():
            axes.grid(color="0.92", linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
        yield grid
        handles: dict[str, Any] = {}
        for axes in grid.T.flat:
            handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        if legend:
            labels = sorted(handles, key=order) if order is not None else list(handles)
            place = {"loc": "outside lower center", "ncols": legend, "frameon": False, "fontsize": 8}
            figure.legend([handles[label] for label in labels], labels, **place)
        figure.draw_without_rendering()  # lays the axes out: only then is it known where text falls
        for axes in grid.flat:
            spread_notes(axes)
        write_atomically(path, lambda file: figure.savefig(file, dpi=160, metadata=_undated(path)))


def _undated(path: Path) -> dict[str, Any]:
    """The same plot gives the same bytes: without the day."""
    return {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower(), {})


def refuse_ending(path: Path) -> None:
    """An error unless the ending is one that plots have."""
    if path.suffix.lower() not in PLOTTED:
        raise DpbenchError(f"{path.name}: a plot ends in .png, .pdf or .svg")


def style_of(number: int) -> tuple[str, str]:
    """Colour and marker of the line of this number; they come again where there are more lines than colours."""
    return COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]


def legible(board: pd.DataFrame) -> pd.DataFrame:
    """The board with its names as matplotlib may draw them; see `dpbench.text.shown_text.drawn`."""
    names = [name for name in NAMES if name in board.columns]
    arguments = {
        drawn(text): {key: drawn(value) for key, value in given.items()} for text, given in arguments_of(board).items()
    }
    shown = with_arguments(board.assign(**{name: board[name].map(drawn) for name in names}), arguments)
    if "defense" in shown:
        shown[NAMED] = board["defense"]
        labels = {drawn(name): drawn(label) for name, label in board.attrs.get(LABELS, {}).items()}
        shown["defense"] = shown["defense"].map(lambda name: labels.get(name, name))
    return shown


NAMED = "named"
"""The column of a legible board that keeps the names of defenses: colours go by them, whatever they are called."""

LABELS = "labels"
"""Where a board keeps what its defenses are called in a paper: name -> label."""


def with_labels(board: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """The board, and what its defenses are called in plots and tables for a paper.

    Raises:
        DpbenchError: no such defense on it, or one that plots know by its name.
    """
    there = set(board["defense"])
    for name in labels:
        if name not in there:
            raise unknown("defense", name, there)
        if name == UNDEFENDED:
            raise DpbenchError(f"--labels {name}=...: the undefended model is the reference, and keeps its name")
    board.attrs[LABELS] = dict(labels)
    return board


def label_for(board: pd.DataFrame, defense: str) -> str:
    """What a defense is called."""
    labels: Mapping[str, str] = board.attrs.get(LABELS, {})
    return labels.get(defense, defense)


def note(axes: Axes, text: str, place: tuple[float, float], colour: str) -> None:
    """Small text beside a point, readable on lines."""
    from matplotlib.patheffects import withStroke

    written = axes.annotate(
        text, place, xytext=(5, -10), textcoords="offset points", fontsize=7, color=colour, zorder=1.9
    )
    written.set_path_effects([withStroke(linewidth=2, foreground="white")])
    written.set_gid(NOTE)


NOTE = "note"
"""What marks the text of `note` among whatever else is written on axes."""

BESIDE = ((5, -10), (5, 4), (-5, -10), (-5, 4), (0, 8), (0, -15), (9, -2), (-9, -2))
AWAY = (
    *((12, -18), (12, 12), (-12, 12), (-12, -18), (0, 17), (0, -24), (20, -2), (-20, -2)),
    *((30, -26), (30, 20), (-30, 20), (-30, -26), (0, 30), (0, -38), (44, -12), (44, 8), (60, -40), (60, 34)),
)
PLACES = BESIDE + AWAY
"""Where a note may stand, in points from what it is about, to the left of it where the first is negative; a line leads
to it from `AWAY`."""


def spread_notes(axes: Axes) -> None:
    """Move notes to where they cover neither each other nor a point, as far as there is such a place."""
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

    notes = [child for child in axes.texts if isinstance(child, Annotation) and child.get_gid() == NOTE]
    if not notes:
        return
    size = 5.0 * axes.figure.dpi / 72  # pixels around the middle of a marker
    drawn_at = [line.get_xydata() for line in axes.get_lines() if line.get_marker() not in ("", "None", None)]
    centres = axes.transData.transform(np.concatenate([*drawn_at, [written.xy for written in notes]]))
    taken = [Bbox([centre - 0.8 * size, centre + 0.8 * size]) for centre in centres]
    told: list[Bbox] = []
    frame = axes.get_window_extent()
    for written in notes:
        best, least = PLACES[0], float("inf")
        for place in PLACES:
            _put(written, place)
            box = written.get_window_extent()
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            covered = sum(_shared(box, other) for other in taken) + (0 if inside else box.width * box.height)
            covered += 1000 * sum(_shared(box, other) for other in told)  # a point that is covered is still seen
            if covered < least:
                best, least = place, covered
        _put(written, best)
        told.append(written.get_window_extent().padded(2))
        if best in AWAY:
            _lead(axes, written)


def _put(written: Annotation, place: tuple[float, float]) -> None:
    written.xyann = place
    written.set_horizontalalignment("left" if place[0] > 0 else "right" if place[0] < 0 else "center")


def _lead(axes: Axes, written: Annotation) -> None:
    """A thin line from a note to its point."""
    x, y = written.xyann
    line = {"arrowstyle": "-", "color": written.get_color(), "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
    axes.annotate("", written.xy, (x, y + 3), textcoords="offset points", arrowprops=line, zorder=1.8)


def _shared(one: Bbox, other: Bbox) -> float:
    """The area that two boxes have in common."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return width * height if width > 0 and height > 0 else 0.0


def bars(points: pd.DataFrame, metric: str, scale: float) -> Any:
    """(2, points) below and above a figure to the ends of its interval; None where the board has no intervals of it."""
    if f"{metric}_low" not in points:
        return None
    below = (points[metric] - points[f"{metric}_low"]).clip(lower=0).fillna(0)
    above = (points[f"{metric}_high"] - points[metric]).clip(lower=0).fillna(0)
    return scale * np.stack([below.to_numpy(float), above.to_numpy(float)])


@contextmanager
def default_style() -> Iterator[None]:
    """Matplotlib with its defaults, as it was before afterwards; to be used around everything that draws."""
    _import_matplotlib()
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.hashsalt"] = "dpbench"  # the same plot gives the same bytes
        yield


def _import_matplotlib() -> None:
    """Import it, though a `matplotlibrc` cannot be read or MPLBACKEND names nothing."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)  # of each setting that it does not know it says three lines
    try:
        import matplotlib
    except Exception:  # whatever reading the settings raises
        for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
            del sys.modules[name]  # half imported
        # it looks in the working directory, and then where this variable says
        undisturbed = {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
        before = {name: os.environ.get(name) for name in undisturbed}
        os.environ |= undisturbed
        try:
            with chdir(Path(__file__).parent):
                import matplotlib  # noqa: F401
        finally:
            for name, value in before.items():
                del os.environ[name]
                if value is not None:
                    os.environ[name] = value
    finally:
        logger.setLevel(level)


def draw_or_say(plots: Mapping[str, Callable[[], object]], console: Console) -> list[str]:
    """Draw each plot; of one that cannot be drawn say why, in a line: a run has its table all the same.

    Args:
        plots: file name -> draws it; what returns False has nothing to draw.
        console: takes the lines.

    Returns:
        The names of those that were drawn.

    Raises:
        DpbenchError: one cannot be written, or what it shows is not there.
    """
    there = []
    for name, draw in plots.items():
        try:
            if draw() is not False:
                there.append(name)
        except DpbenchError:
            raise
        except Exception as error:  # whatever a drawing library raises
            debug(error)
            line = f"no {name}: {clean(reason(error))}"
            console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    return there
