"""The axes that a plot is drawn on, kept for a test to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dpbench.reporting.plots.plot_style import panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def axes_drawn(monkeypatch: Any, module: ModuleType, draw: Callable[[], object]) -> list[Axes]:
    """All axes, row by row, of what `draw` draws by the `panels` of that module."""
    kept: list[Any] = []

    @contextmanager
    def keeping(*arguments: Any, **options: Any) -> Iterator[Any]:
        with panels(*arguments, **options) as grid:
            kept.append(grid)
            yield grid

    with monkeypatch.context() as patched:
        patched.setattr(module, "panels", keeping)
        draw()
    return list(kept[-1].flat)
