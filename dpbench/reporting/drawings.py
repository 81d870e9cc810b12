"""Pictures and plots of a run, each imported only where it is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dpbench.records.record import Record


def write_overview(run_dir: Path, board: pd.DataFrame, path: Path, **choices: Any) -> None:
    """One picture of a run, for a README; see `dpbench.reporting.overview.write_overview`."""
    from dpbench.reporting import overview

    overview.write_overview(run_dir, board, path, **choices)


def write_tradeoff(board: pd.DataFrame, path: Path) -> None:
    """The plot of accuracy against what is recovered; see `dpbench.reporting.tradeoff_plot.write_tradeoff`."""
    from dpbench.reporting import tradeoff_plot as plots

    plots.write_tradeoff(board, path)


def write_budgets(board: pd.DataFrame, path: Path) -> bool:
    """The plot of what attacks recover against their budget; see `dpbench.reporting.budget_plot`."""
    from dpbench.reporting import budget_plot

    return budget_plot.write_budgets(board, path)


def write_depth(board: pd.DataFrame, records: Iterable[Record], path: Path) -> bool:
    """The plot of what undefended backbones leak against depth; see `dpbench.reporting.depth_plot`."""
    from dpbench.reporting import depth_plot

    return depth_plot.write_depth(board, depth_plot.depths(records), path)
