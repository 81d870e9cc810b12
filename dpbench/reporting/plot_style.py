"""Plots look the same on every machine: the reader's own matplotlib settings take no part."""

from __future__ import annotations

import logging
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path

from rich.console import Console

from dpbench.errors import DpbenchError, debug, reason
from dpbench.text.shown_text import clean

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#7F7F7F",
    "#8C6BB1",
    "#B15928",
    "#66A61E",
)
"""Okabe and Ito's and three more: told apart by colour-blind readers; markers differ too, for print in grey."""

MARKERS = "osD^vPX<>h"

_SALT = 43
"""With it no two built-in defenses have one colour, or one marker."""


def style_of(defense: str) -> tuple[str, str]:
    """Colour and marker of a defense: the same on every plot and page, whichever others stand beside it."""
    number = zlib.crc32(f"{_SALT} {defense}".encode())
    return COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]


@contextmanager
def default_style() -> Iterator[None]:
    """Matplotlib with its defaults, as it was before afterwards; to be used around everything that draws."""
    _import_matplotlib()
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
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
