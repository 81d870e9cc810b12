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

from dpbench.board_files import FLOOR, WORST_CASE, headline_of
from dpbench.caveats import ONE_SEED, leakage_lines, recognised_line
from dpbench.ensembles import FLOORS
from dpbench.shown_text import clean
from dpbench.types import AUXILIARY_DATA, BUDGETS, THREAT_MODELS, UNDEFENDED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

    from dpbench.store import Record

LEGEND = (
    "SSIM of the attacker's images (higher: closer to the victims). worst: per image the best attack; "
    "re-id: victims found among the test images; identified: their class, by other images of it; "
    "leakage: 0 the floor of the picture metrics (no privacy: see re-id), 1 undefended under the strongest attacker. "
    "\u2248: not to be told from the row above; *: an attack failed, with it the figure could only rise; "
    "?: the attack did not beat the floor on the undefended model, or did not converge: a larger budget may recover "
    "more. A low figure means: not broken by these attacks."
)
STATIC_LEGEND = " ~: the static attack did not converge, as one that does not know the defense well may."
SHORT = 20
"""Characters of parameters that are shown where nothing else needs them to be: the board has them all."""
DEFENSE, WORST = "defense", "worst"
RECOGNITION = {"identified": "identity_top1", "re-id": "reid_top1", "label read": "label_read"}
MARKS = {"incomplete": "*", "unreliable": "?"}
NOT_CONVERGED = {False: "?", True: "~"}
"""Mark of a row whose attacks did not converge, by whether they are static."""
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


def write_budgets(board: pd.DataFrame, path: Path) -> bool:
    """The plot of what attacks recover against their budget; see `dpbench.budget_plot`."""
    from dpbench import budget_plot

    return budget_plot.write_budgets(board, path)


def write_depth(board: pd.DataFrame, records: Iterable[Record], path: Path) -> bool:
    """The plot of what undefended backbones leak against depth; see `dpbench.depth_plot`."""
    from dpbench import depth_plot

    return depth_plot.write_depth(board, depth_plot.depths(records), path)


def headline(panel: pd.DataFrame) -> str:
    """The strongest threat model among these rows."""
    present = set(panel["threat_model"])
    return [threat_model for threat_model in THREAT_MODELS if threat_model in present][-1]


def server_of(rows: pd.DataFrame) -> pd.Series[str]:
    """Who holds the server's half in each row: `trusted`, or empty for the attacker."""
    return rows["server"] if "server" in rows else pd.Series("", index=rows.index)


def strongest(rows: pd.DataFrame) -> pd.DataFrame:
    """Of rows that differ in what is granted and spent the one with the most; none of none."""
    ranked = rows.assign(
        threat=rows["threat_model"].map(THREAT_MODELS.index),
        images_of=rows["auxiliary"].map(AUXILIARY_DATA.index),
        holds_server=server_of(rows) == "",
        spent=rows["budget"].map(BUDGETS.index),
    )
    return ranked.sort_values(["threat", "images_of", "releases", "holds_server", "spent"], kind="stable").tail(1)


def print_table(board: pd.DataFrame, console: Console) -> None:
    """Per split point one table: accuracy and drop per defense, SSIM of each attack and of the worst case.

    Other attackers than the strongest get one column each, with their worst case. Where the terminal is too narrow
    the weakest attacks are left out first, which the line below the table says.
    """
    for names, panel in board.groupby(list(PANEL), sort=False):
        dataset, backbone, split_point, seed = (clean(name) for name in names)
        seeds = "" if board["seed"].nunique() == 1 else ", all seeds" if seed == "all" else f", seed {seed}"
        server = ", attackers without the server's half" if _main(panel)[2] == "trusted" else ""
        title = Text.assemble((dataset, "bold"), f", {backbone} split at ", (split_point, "bold"), seeds + server)
        columns, expendable, bold = _columns(panel)
        left_out: list[str] = []
        while expendable and _width(_table(columns, bold), console) > console.width:
            left_out.append(expendable.pop(0))
            del columns[left_out[-1]]
        console.print()
        console.print(title)
        console.print(_table(columns, bold))
        line = _floor_line(panel)
        if line:
            console.print(Text(clean(line), style="dim"))
        for line in caveat_lines(panel):
            console.print(Text(clean(line), style="yellow"))
        if left_out:
            console.print(Text(f"left out for lack of width: {', '.join(left_out)}", style="dim"))
    if len(board):
        legend = LEGEND
        if ((board["converged"] == "no") & (board["threat_model"] == "static")).any():
            legend += STATIC_LEGEND
        if (board["seed"] != "all").all():
            legend += f" On boards, {ONE_SEED}."
        console.print(Text(legend, style="dim"))


def _floor_line(panel: pd.DataFrame) -> str:
    """`floor: 0.14 (mean-image 0.13, random-image 0.09)`: the zero of the scale, and what it is made of."""
    panel = panel[panel["origin"] == panel["origin"].iloc[0]]
    best = panel[panel["attack"] == FLOOR]
    cells = panel[panel["attack"].isin(_floors(panel)) & (panel["attack"] != FLOOR)]
    parts = [
        f"{attack} {_figure(strongest(rows), 'ssim')}"
        for attack, rows in cells[cells["defense"] == UNDEFENDED].groupby("attack", sort=False)
    ]
    listed = ", ".join(parts)
    if best.empty:
        return f"floor: {listed}" if listed else ""
    return f"floor: {_figure(best, 'ssim')}" + (f" ({listed})" if listed else "")


def _width(table: Table, console: Console) -> int:
    return Measurement.get(console, console.options.update(width=10_000), table).maximum


def _table(columns: dict[str, list[Text]], bold: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for heading in columns:
        if heading == DEFENSE:
            table.add_column(heading, vertical="bottom", min_width=12)
        else:
            style = "bold" if heading == bold else ""
            table.add_column(Text(_stacked(clean(heading, SHORT * 2))), justify="right", style=style, vertical="bottom")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def _columns(panel: pd.DataFrame) -> tuple[dict[str, list[Text]], list[str], str]:
    """Heading -> one entry per defense setting; the headings that can be spared, first the most; the headline."""
    worst = panel[panel["attack"] == WORST_CASE]
    cells = panel[~panel["attack"].isin([WORST_CASE, *_floors(panel)])]
    if _main(panel)[0] != "static":
        cells = cells[cells["threat_model"] != "static"]  # has its own column; the others see the defense
    main = _main(panel)
    attacks = _attack_order(cells)
    tiers = {
        " ".join([WORST, threat, *(["shifted"] if images == "shifted" else []), *([server] if server else [])]): tier
        for server in ("", "trusted")
        for images in reversed(AUXILIARY_DATA)
        for threat in reversed(THREAT_MODELS)
        if (tier := (threat, images, server)) != main and _of_tier(worst, tier).any()
    }
    measured = worst.columns[worst.notna().any()]
    recognition = {heading: column for heading, column in RECOGNITION.items() if column in measured}
    about = next((heading for heading, column in recognition.items() if column == headline_of(panel)), WORST)
    shown = [*attacks, WORST, *tiers, *recognition, "leakage"]
    if about != WORST:
        shown = [about, *(heading for heading in shown if heading != about)]
    columns: dict[str, list[Text]] = {heading: [] for heading in (DEFENSE, "top-1", "drop", *shown)}
    varied = short_arguments(panel)
    above = ""
    for names, rows in panel.groupby(["defense", "defense_args", "origin"], sort=False):
        defense, arguments, origin = (str(name) for name in names)
        claimed = " (claimed)" if origin == "claimed" else ""
        columns[DEFENSE].append(Text(clean(f"{defense} {varied[defense, arguments]}") + claimed))
        columns["top-1"].append(Text(_first(rows["accuracy"], lambda value: f"{value:.1%}")))
        columns["drop"].append(Text(_first(rows["accuracy_drop"], lambda value: f"{100 * value:+.1f}")))
        for attack in attacks:
            of_attack = cells[(cells["attack"] == attack) & cells.index.isin(rows.index)]
            columns[attack].append(_figure(strongest(of_attack), "ssim"))
        own = rows[rows["attack"] == WORST_CASE]
        best = strongest(own[_of_tier(own, main)])
        columns[WORST].append(_figure(best, "ssim"))
        for heading, tier in tiers.items():
            columns[heading].append(_figure(strongest(own[_of_tier(own, tier)]), "ssim"))
        for heading, column in recognition.items():
            columns[heading].append(_figure(best, column))
        columns["leakage"].append(_figure(best, "leakage"))
        if len(best) and above and above in str(best["tied"].iloc[0]).split("; "):
            columns[about][-1].append("\u2248")
        above = f"{defense} {arguments}".strip()
    # leakage is never shown without re-identification
    spared = [*attacks, *reversed(tiers), "drop", *(heading for heading in reversed(recognition) if heading != "re-id")]
    return columns, [heading for heading in spared if heading != about], about


def _main(panel: pd.DataFrame) -> tuple[str, str, str]:
    """Threat model, images and server of the strongest attacker: what the columns without more words are about."""
    worst = panel[panel["attack"] == WORST_CASE]
    threat_model = headline(worst if len(worst) else panel)
    granted = worst[worst["threat_model"] == threat_model]
    images = "same" if (granted["auxiliary"] == "same").any() else "shifted"
    server = server_of(granted)
    return threat_model, images, "trusted" if len(granted) and (server == "trusted").all() else ""


def caveat_lines(panel: pd.DataFrame) -> list[str]:
    """What leakage in the table is made of where that has to be said, and who is re-identified in spite of it."""
    shown = panel[_of_tier(panel, _main(panel)) & (panel["attack"] == WORST_CASE)]
    return [*leakage_lines(shown), *filter(None, [recognised_line(panel)])]


def _of_tier(rows: pd.DataFrame, tier: tuple[str, str, str]) -> pd.Series[bool]:
    return (rows["threat_model"] == tier[0]) & (rows["auxiliary"] == tier[1]) & (server_of(rows) == tier[2])


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


def _attack_order(cells: pd.DataFrame) -> list[str]:
    """Weakest first: the strongest attack comes out beside the worst case.

    By the best mean SSIM over the settings, so that a failed cell does not move an attack.
    """
    best = cells.groupby("attack")["ssim"].max().fillna(2.0)
    return [str(name) for name in best.sort_index().sort_values(kind="stable").index]


def _floors(panel: pd.DataFrame) -> list[str]:
    """The floors among the attacks: a line below the table, since they ran on the undefended reference alone."""
    return [str(attack) for attack in panel["attack"].unique() if str(attack).split()[0] in (FLOOR, *FLOORS)]


def _figure(rows: pd.DataFrame, column: str) -> Text:
    """One figure; a dash where there is none, `failed`, `*` where incomplete, `?` where it may say nothing."""
    if rows.empty:
        return Text("-", style="dim")
    row: Any = rows.iloc[0]
    if row["status"] == "failed":
        return Text("failed", style="red")
    if pd.isna(row[column]):
        return Text("-", style="dim")
    mark = MARKS.get(row["status"], "")
    stuck = NOT_CONVERGED[row["threat_model"] == "static"] if row["converged"] == "no" else ""
    return Text(f"{row[column]:.2f}{mark}{stuck if stuck != mark else ''}")
