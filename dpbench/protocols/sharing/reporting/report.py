"""The report of a sharing run: what the receiver gained, beside what it could recover."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from dpbench.board.caveats import NO_PRIVACY, leakage_lines
from dpbench.contract.threat import UNDEFENDED
from dpbench.protocols.sharing.records import SharingRecord
from dpbench.protocols.sharing.reporting.columns import FLOOR, KNOWLEDGE, SUBJECT, varied_arguments
from dpbench.protocols.sharing.reporting.plots import gain_and_leak, transfers
from dpbench.protocols.sharing.reporting.table import TRAINED_ON
from dpbench.protocols.sharing.reporting.transfer import build_transfer
from dpbench.protocols.sharing.units import Attacked
from dpbench.report import verdicts
from dpbench.report.boards import commands, environment, how_it_works, plain_table
from dpbench.report.content import Answer, Cell, Column, Gallery, Line, Report, Table, Tone
from dpbench.report.gallery import films, gallery_of
from dpbench.report.glossary import SHARING, TERMS
from dpbench.report.levels import RULE, broken, decimal, level_of, number, percent, told
from dpbench.report.plots import curves
from dpbench.reporting.plots.marks import mark_of
from dpbench.suite.ensembles import is_floor
from dpbench.suite.names import arguments_text

MAIN = (
    Column("trained on", about="beside the receiver's own images"),
    Column("accuracy", numeric=True, about="top-1 of the receiver after training; gain over its own images alone"),
    Column("recovered?", numeric=True, about="do shared images come back: worst case over all attacks"),
    Column("re-identified", numeric=True, about="victims found among all images that the sender shared"),
    Column("label read", numeric=True, about="victims whose class is read from the reconstruction"),
    Column("against whom", about="what the receiver knows of the sender's defense, at most"),
)

KNOWS = {
    "public": "the undefended public head, and nothing of the defense",
    "own": "a defense of the same kind that it fitted itself, on its own images",
    "query": "the sender's defended client as a black box: it may send images of its own through it",
    "weights": "the sender's defended client itself, weights and all",
}
"""Knowledge -> what the receiver knows of the sender's defense, for a sentence."""


INSTEAD = {
    "sender-tail": "The sender's own trained tail, without any feature,",
    "soft-labels": "The sender's soft labels on public images, without any feature,",
}
"""What a sender can give instead of features, for a sentence."""


def report_of_sharing(
    records: Sequence[SharingRecord], board: pd.DataFrame, folder: Path | None, *, title: str
) -> Report:
    """What the page says of a sharing run.

    Args:
        records: of the run.
        board: from `dpbench.protocols.sharing.reporting.board`.
        folder: the run directory, for pictures.
        title: of the page.
    """
    panels = [(names, rows) for names, rows in board.groupby(list(SUBJECT), sort=False)]
    said, tone = _verdict(board)
    shown = [gain_and_leak(_title(names), rows) for names, rows in panels]
    shown += [*transfers(build_transfer(records)), curves(records)]
    return Report(
        title=title,
        subject="; ".join(_title(names) for names, _ in panels[:4]),
        verdict=said,
        tone=tone,
        answers=[_answer(names, rows, alone=len(panels) == 1) for names, rows in panels],
        galleries=_galleries(folder, records) if folder is not None else [],
        films=films(folder, records) if folder is not None else [],
        table=_table(board),
        attackers=_attackers(board, records),
        plots=[plot for plot in shown if plot is not None],
        caveats=[*leakage_lines(board), f"{NO_PRIVACY[0].upper()}{NO_PRIVACY[1:]}.", RULE],
        untested=_untested(board, records),
        terms=[*TERMS, *SHARING],
        environment=environment(records),
        commands=commands(records, folder),
        cells=plain_table(board),
    )


def _measured(rows: pd.DataFrame) -> list[str]:
    """The kinds of knowledge with which anybody attacked, least first."""
    return [one for one in KNOWLEDGE if f"ssim_{one}" in rows and rows[f"ssim_{one}"].notna().any()]


def _attackers(board: pd.DataFrame, records: Sequence[SharingRecord]) -> list[tuple[str, str]]:
    """What the receiver knew, and how its attacks go about it."""
    knew = [(f"A receiver who knows: {one}", f"It knows {KNOWS[one]}.") for one in _measured(board)]
    used = dict.fromkeys(record.unit.attack.name for record in records if isinstance(record.unit, Attacked))
    return [*knew, *((f"The attack {name}", how_it_works(name)) for name in used)]


def _title(names: Any) -> str:
    dataset, backbone, split_point, receiver, senders = (str(name) for name in names)
    return f"{dataset}, {backbone} split at {split_point}: {receiver} trains on what {senders} shared"


def _floor(rows: pd.DataFrame) -> Mapping[Any, Any] | None:
    found = rows[rows["condition"] == FLOOR].to_dict("records")
    return found[0] if found else None


def _defended(rows: pd.DataFrame) -> list[dict[Any, Any]]:
    found = rows[(rows["condition"] == "defended-features") & rows["ssim"].notna() & (rows["status"] != "failed")]
    return list(found.to_dict("records"))


def _clean(rows: pd.DataFrame) -> Mapping[Any, Any] | None:
    """The undefended features, where they were attacked."""
    found = rows[(rows["condition"] == "clean-features") & rows["ssim"].notna()].to_dict("records")
    return found[0] if found else None


def _standing(row: Mapping[Any, Any], rows: pd.DataFrame) -> verdicts.Standing:
    floor, clean = _floor(rows), _clean(rows)
    return verdicts.standing(row, floor, telling=clean is not None and broken(clean, floor))


def _verdict(board: pd.DataFrame) -> tuple[str, Tone]:
    subjects = [rows for _, rows in board.groupby(list(SUBJECT), sort=False)]
    all_defended = [(rows, row) for rows in subjects for row in _defended(rows)]
    if not all_defended:
        return "That cannot be said: no defended features were both shared and attacked.", "open"
    knowing = [f"ssim_{one}" for one in KNOWLEDGE if one != "public" and f"ssim_{one}" in board]
    unaware = all(math.isnan(number(row, column)) for _, row in all_defended for column in knowing)
    why = "these attacks recover too little even of undefended features, or those were not attacked"
    return verdicts.verdict([_standing(row, rows) for rows, row in all_defended], unaware=unaware, why=why)


def _answer(names: Any, rows: pd.DataFrame, *, alone: bool) -> Answer:
    floor = _floor(rows)
    own = rows[rows["condition"] == "own"]["accuracy"].dropna()
    parts = []
    if len(own):
        parts.append(f"With its own images alone the receiver reaches {own.iloc[0]:.0%} top-1.")
    for row in rows[rows["condition"] == "clean-features"].to_dict("records"):
        parts.append(f"Undefended features: {_worth(row)}; {_leak(row, floor)}.")
    defended = _defended(rows)
    gaining = [row for row in defended if number(row, "gain_low") > 0]
    order = ("held", "open", "named", "seen")
    best = min(gaining, key=lambda row: (order.index(_standing(row, rows)), number(row, "ssim")), default=None)
    if best is None:
        parts += ["Behind no defense tested are the features clearly worth training on."] if defended else []
    else:
        head = "Best defense behind which the features are still worth training on: "
        if _standing(best, rows) != "held":
            head = "No defense was found to hold whose features are still worth training on. The best of them is "
        said = {str(rows.at[place, "defense_args"]): short for place, short in varied_arguments(rows).items()}
        name = f"{best['defense']} {arguments_text(said[str(best['defense_args'])])}".strip()
        parts.append(f"{head}{name}, {_worth(best)}; {_leak(best, floor)}.")
    for row in rows[rows["condition"].isin(list(INSTEAD)) & rows["gain"].notna()].to_dict("records"):
        parts.append(f"{INSTEAD[str(row['condition'])]} would give {_worth(row)}; what that leaks was not measured.")
    if knew := _measured(rows):
        parts.append(f"The receiver knows, at most, {KNOWS[knew[-1]]}.")
    return Answer("" if alone else _title(names), parts)


def _setting(row: Mapping[Any, Any]) -> str:
    return f"{row['defense']} {row['defense_args']}".strip()


def _worth(row: Mapping[Any, Any]) -> str:
    gain = number(row, "gain")
    return "gain not measured" if math.isnan(gain) else verdicts.points(gain)


def _leak(row: Mapping[Any, Any], floor: Mapping[Any, Any] | None) -> str:
    return "not attacked" if math.isnan(number(row, "ssim")) else told(row, floor)


def _table(board: pd.DataFrame) -> Table:
    rest = [str(column) for column in board.columns if column != "error"]
    text = plain_table(board[rest])
    lines = []
    short = varied_arguments(board)
    floors = {names: _floor(rows) for names, rows in board.groupby(list(SUBJECT), sort=False)}
    several = len(floors) > 1
    for (place, row), whole in zip(board.iterrows(), text.lines, strict=True):
        if row["condition"] == FLOOR:
            continue
        values = {str(name): value for name, value in row.items()}
        defense = str(row["defense"])
        name = TRAINED_ON[str(row["condition"])].format(f"{defense} {arguments_text(short[place])}".strip()).strip()
        name += f" \u00b7 {row['receiver']} at {row['split_point']}" if several else ""
        level = level_of(values, floors[tuple(row[key] for key in SUBJECT)])
        attacked = not math.isnan(number(values, "ssim"))
        gain = number(values, "gain")
        accuracy = number(values, "accuracy")
        knows = [one for one in KNOWLEDGE if not math.isnan(number(values, f"ssim_{one}"))]
        colour, marker = mark_of(defense) if row["condition"] == "defended-features" else ("", "")
        cells = [
            Cell(name, about=_setting(values)),
            Cell(
                "\u2013"
                if math.isnan(accuracy)
                else f"{accuracy:.1%}" + ("" if gain != gain else f" ({100 * gain:+.1f})"),
                accuracy,
            ),
            Cell(f"{level.short} \u00b7 SSIM {decimal(number(values, 'ssim'))}", number(values, "ssim"), level.name)
            if attacked
            else Cell("\u2013"),
            Cell(percent(number(values, "reid_top1")), number(values, "reid_top1")),
            Cell(percent(number(values, "label_read")), number(values, "label_read")),
            Cell(f"the receiver, knowing: {knows[-1]}" if attacked and knows else ""),
        ]
        lines.append(Line([*cells, *whole.cells], "", colour, marker))
    columns = [*MAIN, *(replace(column, main=False) for column in text.columns)]
    return Table(columns, lines)


def _galleries(folder: Path, records: Sequence[SharingRecord]) -> list[Gallery]:
    """Of each sender and seed the strongest attack on every defense."""
    best: dict[tuple[str, int], dict[str, tuple[float, str, str]]] = {}
    for record in records:
        unit = record.unit
        ssim = record.fidelity.get("ssim")
        if not isinstance(unit, Attacked) or not ssim or is_floor(unit.attack.name):
            continue
        setting = record.named.defense or UNDEFENDED
        found = sum(ssim) / len(ssim), unit.defense.name, record.id
        group = best.setdefault((unit.sender, unit.world.seed), {})
        group[setting] = max(found, group.get(setting, (-1.0, "", "")))
    by_id = {record.id: record for record in records}
    galleries = []
    for (sender, seed), group in sorted(best.items()):
        cells = [(defense, setting, name) for setting, (_, defense, name) in group.items()]
        cells.sort(key=lambda one: (one[0] != UNDEFENDED, one[1]))
        galleries.append(gallery_of(folder, f"what {sender} shared, seed {seed}", cells, by_id))
    return [gallery for gallery in galleries if gallery is not None]


def _untested(board: pd.DataFrame, records: Sequence[SharingRecord]) -> list[str]:
    lines = ["Attacks that are not listed here. A low figure means: not broken by these attacks."]
    lines += [f"A receiver who knows {KNOWS[one]}." for one in KNOWLEDGE if one not in _measured(board)]
    failed = sum(record.status == "failed" for record in records)
    if failed:
        lines.append(f"{failed} trainings or attacks that failed: nothing can be said of them.")
    return [*lines, "Several exports of the same images, whose noise averages out.", "Other networks, data and seeds."]
