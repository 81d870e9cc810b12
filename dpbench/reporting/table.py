"""What a person sees of a run: the table at its end, pictures and plots (imported only where drawn)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from dpbench.board.caveats import ONE_SEED
from dpbench.board.columns import FLOOR, WORST_CASE, headline_of, own_metrics
from dpbench.contract.threat import AUXILIARY_DATA, THREAT_MODELS, UNDEFENDED
from dpbench.reporting.selection import (
    PANEL,
    RECOGNITION,
    SHORT,
    attack_order,
    caveat_lines,
    floors_among,
    main_attacker,
    of_attacker,
    short_arguments,
    strongest,
)
from dpbench.text.shown_text import clean

if TYPE_CHECKING:
    from collections.abc import Callable


LEGEND = (
    "SSIM of the attacker's images (higher: closer to the victims). worst: per image the best attack; "
    "re-id: victims found among the test images; identified: their class, by other images of it; "
    "link: named among candidates by comparing releases; "
    "leakage: 0 the floor of the picture metrics (no privacy: see re-id), 1 undefended under the strongest attacker. "
    "\u2248: not to be told from the row above; *: an attack failed, with it the figure could only rise; "
    "?: the attack did not beat the floor on the undefended model, or did not converge: a larger budget may recover "
    "more. A low figure means: not broken by these attacks."
)

STATIC_LEGEND = " ~: the static attack did not converge, as one that does not know the defense well may."

DEFENSE, TOP, DROP, WORST, STATIC, LEAKAGE = "defense", "top-1", "drop", "worst", "worst static", "leakage"

MARKS = {"incomplete": "*", "unreliable": "?"}

NOT_CONVERGED = {False: "?", True: "~"}
"""Is the row of the static tier? -> the mark of one whose attacks did not converge."""


def print_table(board: pd.DataFrame, console: Console) -> None:
    """Per split point one table: accuracy and drop per defense, SSIM of each attack and of the worst case.

    Other attackers than the strongest get one column each, with their worst case. Where the terminal is too narrow
    the weakest attacks are left out first, which the line below the table says.
    """
    for names, panel in board.groupby(list(PANEL), sort=False):
        dataset, backbone, split_point, seed = (clean(name) for name in names)
        seeds = "" if board["seed"].nunique() == 1 else ", all seeds" if seed == "all" else f", seed {seed}"
        server = ", attackers without the server's half" if main_attacker(panel)[2] == "trusted" else ""
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
    cells = panel[panel["attack"].isin(floors_among(panel)) & (panel["attack"] != FLOOR)]
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
    cells = panel[~panel["attack"].isin([WORST_CASE, *floors_among(panel)])]
    if main_attacker(panel)[0] != "static":
        cells = cells[cells["threat_model"] != "static"]  # has its own column; the others see the defense
    main = main_attacker(panel)
    tiers = {
        " ".join([WORST, threat, *(["shifted"] if images == "shifted" else []), *([server] if server else [])]): tier
        for server in ("", "trusted")
        for images in reversed(AUXILIARY_DATA)
        for threat in reversed(THREAT_MODELS)
        if (tier := (threat, images, server)) != main and of_attacker(worst, tier).any()
    }
    measured = worst.columns[worst.notna().any()]
    recognition = {heading: column for heading, column in RECOGNITION.items() if column in measured}
    taken = {DEFENSE, TOP, DROP, WORST, LEAKAGE, *tiers, *recognition}
    recognition |= {_apart(name, "metric", taken): name for name in own_metrics(panel) if name in measured}
    attacks = {_apart(attack, "attack", taken | set(recognition)): attack for attack in attack_order(cells)}
    about = next((heading for heading, column in recognition.items() if column == headline_of(panel)), WORST)
    shown = [*attacks, WORST, *tiers, *recognition, LEAKAGE]
    if about != WORST:
        shown = [about, *(heading for heading in shown if heading != about)]
    columns: dict[str, list[Text]] = {heading: [] for heading in (DEFENSE, TOP, DROP, *shown)}
    varied = short_arguments(panel)
    above = ""
    setting = ["defense", "defense_args", "origin"]
    of_setting = dict(iter(cells.groupby(setting, sort=False)))
    for names, rows in panel.groupby(setting, sort=False):
        defense, arguments, origin = (str(name) for name in names)
        claimed = " (claimed)" if origin == "claimed" else ""
        columns[DEFENSE].append(Text(clean(f"{defense} {varied[defense, arguments]}") + claimed))
        columns[TOP].append(Text(_first(rows["accuracy"], lambda value: f"{value:.1%}")))
        columns[DROP].append(Text(_first(rows["accuracy_drop"], lambda value: f"{100 * value:+.1f}")))
        attacked = of_setting.get(names, cells[:0])
        for heading, attack in attacks.items():
            columns[heading].append(_figure(strongest(attacked[attacked["attack"] == attack]), "ssim"))
        own = rows[rows["attack"] == WORST_CASE]
        best = strongest(own[of_attacker(own, main)])
        columns[WORST].append(_figure(best, "ssim"))
        for heading, tier in tiers.items():
            columns[heading].append(_figure(strongest(own[of_attacker(own, tier)]), "ssim"))
        for heading, column in recognition.items():
            columns[heading].append(_figure(best, column))
        columns[LEAKAGE].append(_figure(best, "leakage"))
        if len(best) and above and above in str(best["tied"].iloc[0]).split("; "):
            columns[about][-1].append("\u2248")
        above = f"{defense} {arguments}".strip()
    # leakage is never shown without re-identification, and the worst case last of all without that of an attacker who
    # does not know the defense: that the two differ is the point
    known = [heading for heading in tiers if heading != STATIC]
    spared = [*attacks, *reversed(known), DROP, *(heading for heading in reversed(recognition) if heading != "re-id")]
    spared += [heading for heading in tiers if heading == STATIC]
    return columns, [heading for heading in spared if heading != about], about


def _apart(name: str, sort: str, taken: set[str]) -> str:
    """The heading of a plug-in's column: its name, told apart from headings of the table's own."""
    return f"{name} ({sort})" if name in taken else name


def _first(figures: pd.Series[float], form: Callable[[float], str]) -> str:
    known = figures.dropna()
    return form(float(known.iloc[0])) if len(known) else "-"


def _stacked(heading: str) -> str:
    """Long headings on several lines, broken after hyphens and at spaces."""
    return heading.replace(" ", "\n").replace("-", "-\n") if len(heading) > 7 else heading


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
