"""What can be said of a board of any protocol: its rows, who measured them, and where."""

from __future__ import annotations

import inspect
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dpbench.contract.attack import Attack
from dpbench.records.record import Envelope
from dpbench.report.content import Cell, Column, Line, Report, Table
from dpbench.report.glossary import meaning_of
from dpbench.suite.words import built_in


def report_of_board(board: pd.DataFrame, records: Sequence[Envelope], *, title: str) -> Report:
    """The page of a protocol that has none of its own."""
    failed = sum(record.status == "failed" for record in records)
    return Report(
        title=title,
        subject=f"{len(records)} records",
        verdict=f"{len(board)} rows, {failed} failures.",
        tone="open",
        answers=[],
        table=plain_table(board, main=6),
        environment=environment(records),
        commands=commands(records, None),
        cells=plain_table(board),
        untested=["Attacks that are not listed here. A low figure means: not broken by these attacks."],
    )


def plain_table(board: pd.DataFrame, *, main: int | None = None) -> Table:
    """Every row and column as text; the first columns are shown at once, or all."""
    numeric = [pd.api.types.is_numeric_dtype(board[column]) for column in board.columns]
    columns = [
        Column(str(name), numeric=number, main=main is None or place < main, about=meaning_of(str(name)))
        for place, (name, number) in enumerate(zip(board.columns, numeric, strict=True))
    ]
    lines = []
    for values in board.itertuples(index=False, name=None):
        given = ["" if pd.isna(value) else value for value in values]
        lines.append(
            Line(
                [
                    Cell(str(value), float(value) if number and value != "" else None)
                    for value, number in zip(given, numeric, strict=True)
                ]
            )
        )
    return Table(columns, lines)


def how_it_works(attack: str) -> str:
    """How an attack goes about it: of a built-in one what its file says first. No other package is imported."""
    known = built_in(Attack).get(attack)
    about = inspect.getdoc(sys.modules[known.__module__]) if known is not None else None
    return (about or "Not one of dpbench's own: its author says what it does.").split("\n\n")[0].replace("\n", " ")


def environment(records: Sequence[Envelope]) -> list[tuple[str, str]]:
    """Where the records were measured: what all have in common, and in how many ways the rest differs."""
    names: dict[str, dict[str, None]] = {}
    for record in records:
        for name, value in record.environment.items():
            flat = value.items() if isinstance(value, dict) else [(name, value)]
            for one, given in flat:
                names.setdefault(str(one), {})[given if isinstance(given, str) else json.dumps(given)] = None
    lines = [(name, "; ".join(list(values)[:4])) for name, values in names.items() if list(values) != ["null"]]
    when = sorted(record.created for record in records if record.created)
    return [*lines, ("measured", f"{when[0]} to {when[-1]}")] if when else lines


def commands(records: Sequence[Envelope], folder: Path | None) -> list[tuple[str, str]]:
    """How to look further, and to measure again."""
    # a page may be handed on: where the run lies on this machine is nobody's business
    named = "RUN" if folder is None else folder.name if folder.is_absolute() else str(folder)
    place = shlex.quote(named)  # the commands are copied into a shell, and a stranger may have named the run
    suites = dict.fromkeys(record.suite for record in records)
    return [
        *(
            (f"dpbench run {shlex.quote(suite)}", "measures again; options it was started with are not recorded")
            for suite in suites
        ),
        (f"dpbench verify {place}", "do records, images and board fit together?"),
        (f"dpbench show {place}", "the pictures of every attack"),
        (f"dpbench leaderboard {place} --output board.csv", "the board as a table"),
        (f"dpbench check RUN --baseline {place}", "does another run leak more?"),
        (f"dpbench gate {place} --max-ssim 0.4 --max-reid 0.1", "yes or no, by limits of your own"),
        (f"dpbench report {place} --pdf", "this page as a PDF"),
    ]
