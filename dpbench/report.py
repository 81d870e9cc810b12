"""What a person sees of a run: the table at its end, pictures and plots (imported only where drawn)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from dpbench.board_files import WORST_CASE
from dpbench.types import THREAT_MODELS, UNDEFENDED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

LEGEND = (
    "SSIM of the attacker's images (higher: closer to the victims). worst: per image the best attack; "
    "leakage: 0 the floor, 1 undefended; *: an attack failed, with it the figure could only rise. "
    "A low figure means: not broken by these attacks."
)
SHORT = 20
"""Characters of parameters that are shown where nothing else needs them to be: the board has them all."""
DEFENSE, WORST = "defense", "worst"
PANEL = ("dataset", "backbone", "split_point", "seed")


def reconstructions_path(run_dir: Path, cell_id: str) -> Path:
    """Where a cell's first images lie: uint8 tensors `victims` and `reconstructions`, (N,3,H,W)."""
    return run_dir / "reconstructions" / f"{cell_id}.safetensors"


def write_picture(
    path: Path,
    victims: Tensor,
    reconstructions: Tensor,
    *,
    captions: Sequence[str] = (),
    title: str = "",
    columns: int = 8,
) -> None:
    """A PNG of victims, each with its reconstruction below it; see `dpbench.pictures.write_picture`."""
    from dpbench import pictures

    pictures.write_picture(path, victims, reconstructions, captions=captions, title=title, columns=columns)


def write_overview(run_dir: Path, board: pd.DataFrame, path: Path, **choices: Any) -> None:
    """One picture of a run, for a README; see `dpbench.overview.write_overview`."""
    from dpbench import overview

    overview.write_overview(run_dir, board, path, **choices)


def write_tradeoff(board: pd.DataFrame, path: Path) -> None:
    """The plot of accuracy against what is recovered; see `dpbench.plots.write_tradeoff`."""
    from dpbench import plots

    plots.write_tradeoff(board, path)


def headline(panel: pd.DataFrame) -> str:
    """The strongest threat model among these rows."""
    present = set(panel["threat_model"])
    return [threat_model for threat_model in THREAT_MODELS if threat_model in present][-1]


def print_table(board: pd.DataFrame, console: Console) -> None:
    """Per split point one table: accuracy and drop per defense, SSIM of each attack and of the worst case.

    Other threat models than the strongest get one column each, with their worst case. Where the terminal is
    too narrow the weakest attacks are left out first, which the line below the table says.
    """
    for names, panel in board.groupby(list(PANEL), sort=False):
        dataset, backbone, split_point, seed = (str(name) for name in names)
        seeds = f", seed {seed}" if board["seed"].nunique() > 1 else ""
        title = Text.assemble((dataset, "bold"), f", {backbone} split at ", (split_point, "bold"), seeds)
        columns, expendable = _columns(panel)
        left_out: list[str] = []
        while expendable and _width(_table(columns), console) > console.width:
            left_out.append(expendable.pop(0))
            del columns[left_out[-1]]
        console.print()
        console.print(title)
        console.print(_table(columns))
        floors = panel[panel["attack"].isin(_floors(panel))]
        if len(floors):
            shown = (f"{row.attack} {_figure(row.to_frame().T, 'ssim')}" for _, row in floors.iterrows())
            console.print(Text(f"floor: {', '.join(shown)}", style="dim"))
        if left_out:
            console.print(Text(f"left out for lack of width: {', '.join(left_out)}", style="dim"))
    if len(board):
        console.print(Text(LEGEND, style="dim"))


def _width(table: Table, console: Console) -> int:
    return Measurement.get(console, console.options.update(width=10_000), table).maximum


def _table(columns: dict[str, list[Text]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for heading in columns:
        if heading == DEFENSE:
            table.add_column(heading, vertical="bottom", min_width=12)
        else:
            style = "bold" if heading == WORST else ""
            table.add_column(Text(_stacked(heading)), justify="right", style=style, vertical="bottom")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def _columns(panel: pd.DataFrame) -> tuple[dict[str, list[Text]], list[str]]:
    """Heading -> one entry per defense setting; and the headings that can be spared, first the most."""
    strongest = headline(panel)
    weaker = [t for t in reversed(THREAT_MODELS) if t != strongest and (panel["threat_model"] == t).any()]
    attacks = _attack_order(panel[(panel["threat_model"] == strongest) & ~panel["attack"].isin(_floors(panel))])
    tiers = {f"{WORST} {threat_model}": threat_model for threat_model in weaker}
    columns: dict[str, list[Text]] = {DEFENSE: [], "top-1": [], "drop": []}
    columns |= {heading: [] for heading in (*attacks, WORST, *tiers, "leakage")}
    varied = short_arguments(panel)
    for names, rows in panel.groupby(["defense", "defense_args"], sort=False):
        defense, arguments = (str(name) for name in names)
        columns[DEFENSE].append(Text(f"{defense} {varied[defense, arguments]}".strip()))
        columns["top-1"].append(Text(_first(rows["accuracy"], lambda value: f"{value:.1%}")))
        columns["drop"].append(Text(_first(rows["accuracy_drop"], lambda value: f"{100 * value:+.1f}")))
        for attack in attacks:
            columns[attack].append(_figure(_row(rows, strongest, attack), "ssim"))
        columns[WORST].append(_figure(_row(rows, strongest, WORST_CASE), "ssim"))
        for heading, threat_model in tiers.items():
            columns[heading].append(_figure(_row(rows, threat_model, WORST_CASE), "ssim"))
        columns["leakage"].append(_figure(_row(rows, strongest, WORST_CASE), "leakage"))
    return columns, [*attacks, *tiers, "drop"]


def _first(figures: pd.Series[float], form: Callable[[float], str]) -> str:
    known = figures.dropna()
    return form(float(known.iloc[0])) if len(known) else "-"


def _stacked(heading: str) -> str:
    """Long headings on several lines, broken after hyphens and at spaces."""
    return heading.replace(" ", "\n").replace("-", "-\n") if len(heading) > 7 else heading


def short_arguments(panel: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Per defense setting what tells it from others of its name; of a single one all, where that is short."""
    settings = list(panel[["defense", "defense_args"]].drop_duplicates().itertuples(index=False, name=None))
    shown = {}
    for defense, arguments in settings:
        peers = [set(other.split()) for name, other in settings if name == defense]
        common = set.intersection(*peers)
        if len(peers) == 1:
            shown[defense, arguments] = arguments if len(arguments) <= SHORT else ""
        else:
            shown[defense, arguments] = " ".join(part for part in arguments.split() if part not in common)
    return shown


def _attack_order(main: pd.DataFrame) -> list[str]:
    """Weakest first: the floors come out left, the strongest attack beside the worst case.

    By the best mean SSIM over the settings, so that a failed cell does not move an attack.
    """
    cells = main[main["attack"] != WORST_CASE]
    best = cells.groupby("attack")["ssim"].max().fillna(2.0)
    return [str(name) for name in best.sort_index().sort_values(kind="stable").index]


def _floors(panel: pd.DataFrame) -> list[str]:
    """Attacks that ran on the undefended reference alone, beside other defenses: they change with nothing."""
    if not (panel["defense"] != UNDEFENDED).any():
        return []
    ran = panel.groupby("attack")["defense"].agg(set)
    return [str(attack) for attack, defenses in ran.items() if defenses == {UNDEFENDED}]


def _row(rows: pd.DataFrame, threat_model: str, attack: str) -> pd.DataFrame:
    return rows[(rows["threat_model"] == threat_model) & (rows["attack"] == attack)]


def _figure(rows: pd.DataFrame, column: str) -> Text:
    """One figure; a dash where there is no such cell, `failed` where it failed, `*` where incomplete."""
    if rows.empty:
        return Text("-", style="dim")
    row: Any = rows.iloc[0]
    if row["status"] == "failed":
        return Text("failed", style="red")
    if pd.isna(row[column]):
        return Text("-", style="dim")
    return Text(f"{row[column]:.2f}{'*' if row['status'] == 'incomplete' else ''}")
