"""The report of a run or a board of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dpbench.board.caveats import NO_PRIVACY, caveats, not_converged
from dpbench.board.columns import COUNTS, DECIMALS, FLOOR, WORST_CASE
from dpbench.board.files import to_read
from dpbench.contract.threat import BUDGETS, UNDEFENDED
from dpbench.protocols.inference.answers import Panel, answers, light, panels_of, verdict
from dpbench.records.record import Envelope, Record
from dpbench.report import plots
from dpbench.report.boards import commands, environment, how_it_works
from dpbench.report.content import Cell, Column, Line, Report, Table
from dpbench.report.cost_plot import costs
from dpbench.report.gallery import films, galleries
from dpbench.report.glossary import TERMS, meaning_of
from dpbench.report.levels import RULE, against, decimal, level_of, number, percent, sentence
from dpbench.reporting.plots.depth_plot import depths
from dpbench.reporting.plots.marks import mark_of
from dpbench.reporting.selection import caveat_lines

STRONGEST, ALL = "strongest", "all"

MAIN = (
    Column("defense", about="what the client does to the features, and its parameters"),
    Column("accuracy", numeric=True, about="top-1 on test images; loss against the undefended network below it"),
    Column("recovered?", numeric=True, about="do the images come back: worst case over all attacks"),
    Column("re-identified", numeric=True, about="victims found among all test images"),
    Column("label read", numeric=True, about="victims whose class is read from the reconstruction"),
    Column("against whom", about="what the attacker is granted"),
)


def report_of_cells(
    board: pd.DataFrame, records: Sequence[Record] = (), folder: Path | None = None, *, title: str = "leaderboard"
) -> Report:
    """What the page says of a board of cells.

    Args:
        board: from `dpbench.board.leaderboard`.
        records: those that it was made of, where they are at hand.
        folder: the run directory, for pictures.
        title: of the page.

    Raises:
        DpbenchError: reconstructions in the run directory are damaged.
    """
    panels = panels_of(board)
    board = light(board)
    said, tone = verdict(panels)
    by_id: dict[str, Envelope] = {record.id: record for record in records}
    shown = [plots.tradeoff(panel.title, panel.rows, panel.shown, panel.short) for panel in panels]
    shown += [costs(panel.title, panel.rows, panel.short) for panel in panels]
    deep = plots.depth(board[board["origin"] == "measured"], depths(records)) if len(board) and records else None
    lines = [line.removeprefix(f"{NO_PRIVACY}. ") for panel in panels for line in caveat_lines(panel.rows)]
    said_below = [*caveats(board), *(f"{line[0].upper()}{line[1:]}." for line in lines)]
    return Report(
        title=title,
        subject="; ".join(panel.title for panel in panels[:4]) + (f"; and {len(panels) - 4} more" * (len(panels) > 4)),
        verdict=said,
        tone=tone,
        answers=answers(panels),
        galleries=galleries(folder, [(p.title, p.rows, p.short) for p in panels], by_id) if folder is not None else [],
        films=films(folder, records) if folder is not None else [],
        table=_table(board, panels),
        attackers=_attackers(board),
        plots=[plot for plot in [*shown, deep, plots.curves(records)] if plot is not None],
        caveats=[*dict.fromkeys(line.replace("`", "") for line in said_below), RULE],
        untested=_untested(board),
        terms=list(TERMS),
        environment=environment(records),
        commands=commands(records, folder),
        cells=_cells(board),
    )


def _table(board: pd.DataFrame, panels: Sequence[Panel]) -> Table:
    """The worst cases: first those of the strongest attackers, then all."""
    several = len(panels) > 1
    worst = board[board["attack"] == WORST_CASE]
    texts = to_read(board).loc[worst.index].to_dict("records")
    backbones = board["backbone"].nunique()
    rest = [column for column in board.columns if column not in ("cell", "tied", "error", "origin", "attack")]
    columns = [*MAIN, *(_column(column, main=False) for column in rest)]
    lines = []
    placed = {place: panel for panel in panels for place in panel.rows.index}
    first = {place for panel in panels for place in panel.shown.index}
    for place, row, text in zip(worst.index, worst.to_dict("records"), texts, strict=True):
        panel = placed.get(place)
        floor = panel.floor if panel is not None else None
        level = level_of(row, floor)
        where = f" \u00b7 {row['split_point']}" + (f" of {row['backbone']}" * (backbones > 1))
        name = panel.name(row) if panel is not None else f"{row['defense']} {row['defense_args']}".strip()
        name += where if several else ""
        name += " (undefended)" if row["defense"] == UNDEFENDED else ""
        name += " (claimed)" if row.get("origin") == "claimed" else ""
        drop = number(row, "accuracy_drop")
        cost = f" ({-100 * drop:+.1f})" if drop == drop and row["defense"] != UNDEFENDED else ""
        doubt = {"incomplete": " *", "unreliable": " ?", "failed": ""}.get(str(row["status"]), "")
        doubt = doubt or (" ?" if not_converged(row) else "")
        recovered = "attack failed" if row["status"] == "failed" else f"{level.short} \u00b7 SSIM {_of(row, 'ssim')}"
        colour, marker = mark_of(str(row["defense"]))
        cells = [
            Cell(name, about=f"{row['defense']} {row['defense_args']}".strip()),
            Cell(
                f"{100 * number(row, 'accuracy'):.1f}%{cost}" if number(row, "accuracy") >= 0 else "\u2013",
                number(row, "accuracy"),
                about=_interval(row, "accuracy"),
            ),
            Cell(recovered + doubt, number(row, "ssim"), level.name, _doubts(text, row)),
            Cell(percent(number(row, "reid_top1")), number(row, "reid_top1"), about=_interval(row, "reid_top1")),
            Cell(percent(number(row, "label_read")), number(row, "label_read"), about=_interval(row, "label_read")),
            Cell(against(row)),
            *(Cell(str(text[column]), number(row, column)) for column in rest),
        ]
        lines.append(Line(cells, STRONGEST if place in first else "weaker", colour, marker))
    groups = {STRONGEST: "the strongest attacker of each setting", ALL: "every attacker"}
    return Table(columns, lines, groups if any(line.group != STRONGEST for line in lines) else {}, "against")


def _column(name: str, *, main: bool = True) -> Column:
    return Column(name, numeric=name in DECIMALS or name in COUNTS, main=main, about=meaning_of(name))


def _of(row: Mapping[Any, Any], column: str) -> str:
    return decimal(number(row, column))


def _interval(row: Mapping[Any, Any], column: str) -> str:
    low, high = number(row, f"{column}_low"), number(row, f"{column}_high")
    return "" if low != low else f"95% interval {low:.3f} to {high:.3f}"


def _doubts(text: Mapping[Any, Any], row: Mapping[Any, Any]) -> str:
    error = str(row.get("error") or "")
    return "; ".join(
        filter(None, [_interval(row, "ssim"), "" if text["status"] == "ok" else str(text["status"]), error])
    )


def _cells(board: pd.DataFrame) -> Table:
    """Every row with every column, as the CSV has it, but for words that say what not every reader knows."""
    text = to_read(board)
    columns = [_column(str(column)) for column in text.columns]
    lines = []
    for values, row in zip(text.itertuples(index=False, name=None), board.to_dict("records"), strict=True):
        cells = [
            Cell(str(value), number(row, column.title) if column.numeric else None)
            for value, column in zip(values, columns, strict=True)
        ]
        lines.append(Line(cells))
    return Table(columns, lines)


def _attackers(board: pd.DataFrame) -> list[tuple[str, str]]:
    """Who attacked, strongest first, then how each attack goes about it."""
    told: dict[str, str] = {}
    worst = board[board["attack"] == WORST_CASE]
    for row in worst.to_dict("records"):
        name = f"Whoever {against(row)}"
        if name not in told:
            attacks = f" Its attacks: {row['ensemble']}." if row["ensemble"] else ""
            told[name] = sentence(row) + attacks
    used = dict.fromkeys(str(attack).split()[0] for attack in board["attack"] if attack not in (WORST_CASE, FLOOR))
    for name in used:
        told[f"The attack {name}"] = how_it_works(name)
    return list(told.items())


def _untested(board: pd.DataFrame) -> list[str]:
    """What a reader might take to be covered, and is not."""
    attacked = board[board["attack"] == WORST_CASE]
    lines = ["Attacks that are not listed here. A low figure means: not broken by these attacks."]
    if attacked.empty:
        return lines
    granted = set(attacked["threat_model"])
    if "weights" not in granted:
        lines.append("Attackers who hold the defended client itself: no attack was granted its weights.")
    if not granted & {"query", "weights"}:
        lines.append("Attackers who may send images of their own through the defended client.")
    if "static" not in granted and (attacked["defense"] != UNDEFENDED).any():
        lines.append("Attackers who know the undefended client only.")
    if "shifted" not in set(attacked["auxiliary"]):
        lines.append("Attackers who own images of another data set only.")
    if attacked["releases"].max() == 1:
        lines.append("Attackers who see several releases of one image, which averages noise out.")
    spent = max(attacked["budget"], key=BUDGETS.index)
    if spent != BUDGETS[-1]:
        lines.append(f"Attackers who spend more than a {spent} budget: more steps may recover more.")
    if set(attacked["seed"]) <= {"0"} or attacked["seed"].nunique() == 1:
        lines.append("Other seeds: networks and defenses fitted again come out otherwise.")
    images = attacked["images"].dropna()
    if len(images):
        few = f"{images.min()} to " if images.min() < images.max() else ""
        lines.append(f"Other images: figures rest on {few}{images.max()} victims of {_listed(board['dataset'])}.")
    lines.append(
        f"Other networks and split points than {_listed(board['backbone'])} at {_listed(board['split_point'])}."
    )
    failed = board[board["status"] == "failed"]
    if len(failed):
        lines.append(f"{len(failed)} rows that failed: nothing can be said of them.")
    if (board["lpips"].isna() & (board["status"] != "failed")).any():
        lines.append("LPIPS, where it is empty: its weights were not at hand.")
    return lines


def _listed(values: pd.Series[Any]) -> str:
    names = [str(value) for value in dict.fromkeys(values)]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
