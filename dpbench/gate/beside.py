"""One's own rows in a published board: marked, and on its scale, or with the reason why they are not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dpbench.board.columns import Layout, Row, arguments_of, with_arguments
from dpbench.errors import DpbenchError
from dpbench.gate.reproduction import records_of
from dpbench.protocols.boards import read
from dpbench.protocols.known import AnyProtocol, of_run
from dpbench.records.archive import is_archive
from dpbench.records.record import Envelope
from dpbench.running.yardstick import Yardstick

OWN = "own"
"""`origin` of a row from one's own run on the scale of the board that it stands in."""

ELSEWHERE = "own, another scale"
"""`origin` of one whose figures on that scale cannot be compared with the board's, and are left out."""

MEASURED = "measured"
"""`origin` of what the board holds already."""

Ids = Mapping[Row, Sequence[str]]
"""Name of a row -> ids of the records that it rests on."""


@dataclass(frozen=True)
class Beside:
    """A board with one's own rows in it.

    Attributes:
        board: all rows, in order.
        notes: what a reader must know of the own ones, a line each.
    """

    board: pd.DataFrame
    notes: list[str]


def beside(protocol: AnyProtocol, records: Sequence[Envelope], own: pd.DataFrame, published: Path) -> Beside:
    """Set the rows of a run into a published board, see `set_beside`.

    Args:
        protocol: of the run.
        records: of the run.
        own: its board.
        published: a board (.csv), a file of records, or a run directory.

    Raises:
        DpbenchError: the published board is of another protocol, or has no scale; the run holds no row.
    """
    if protocol.yardstick is None:
        raise DpbenchError("--beside: such boards have no scale that rows of another run could stand on; leave it out")
    if published.is_dir() or is_archive(published):
        theirs = of_run(published)
        of_board = theirs.store.counted([published], theirs.newest)
        board, layout = theirs.board(of_board), theirs.boards.layout
    else:
        of_board = None
        board, layout = read(published)
    if layout is not protocol.boards.layout:
        raise DpbenchError(f"--beside {published}: expected a board of the protocol {protocol.name!r}, like the run")
    if "cell" in board:
        return set_beside(own, board, layout, protocol.yardstick)
    if of_board is None:
        of_board = protocol.store.counted([records_of(published)], protocol.newest)
    return set_beside(own, board, layout, protocol.yardstick, protocol.members(records), protocol.members(of_board))


def set_beside(
    own: pd.DataFrame,
    published: pd.DataFrame,
    layout: Layout,
    yardstick: Yardstick,
    own_ids: Ids | None = None,
    published_ids: Ids | None = None,
) -> Beside:
    """Set the rows of a run into a published board.

    A run stands on the scale of a board where it holds all that the board has as references: the same images, network,
    victims and plug-ins, as their ids say. Then its own references are left out, since the board has them.

    Args:
        own: the board of the run.
        published: from a CSV file, or of records.
        layout: how both name their rows.
        yardstick: what makes the scale of such boards.
        own_ids: of the rows of `own`; by default what their column `cell` says.
        published_ids: likewise of `published`.

    Raises:
        DpbenchError: the run holds no row.
    """
    if own.empty:
        raise DpbenchError("--beside: the run holds no row; run the suite first")
    known = _references(published[_measured(published)], layout, yardstick, published_ids)
    here = _references(own, layout, yardstick, own_ids)
    notes: list[str] = []
    parts = [published if "origin" in published else published.assign(origin=MEASURED)]
    emptied = {"tied": ""} if "tied" in own else {}
    for scope, rows in own.groupby(list(yardstick.scope), sort=False):
        called = " ".join(str(name) for name in scope[:3])
        there, why = _place(here.get(tuple(map(str, scope)), {}), known)
        if there is None:
            left = [name for name in yardstick.columns if name in rows and not name.endswith(("_low", "_high"))]
            notes.append(f"{called}: {why}; {', '.join(left)} left out, other figures are of a run of its own")
            rows = rows.assign(origin=ELSEWHERE, **emptied, **_without(rows, yardstick))
        else:
            same = published[
                (published[list(yardstick.scope)].astype(str) == list(there)).all(axis=1) & _measured(published)
            ]
            notes += [f"{called}: {line}" for line in yardstick.differences(rows, same)]
            named = dict(zip(yardstick.scope, there, strict=True))
            rows = rows[~yardstick.is_reference(rows)].assign(origin=OWN, **emptied, **named)
            notes.append(f"{called}: {len(rows)} rows set into the board, on its scale")
        parts.append(rows)
    board = yardstick.arranged(pd.concat(parts, ignore_index=True))
    return Beside(with_arguments(board, {**arguments_of(published), **arguments_of(own)}), notes)


def _measured(board: pd.DataFrame) -> Any:
    return board["origin"] == MEASURED if "origin" in board else pd.Series(True, index=board.index)


def _without(rows: pd.DataFrame, yardstick: Yardstick) -> dict[str, Any]:
    emptied: dict[str, Any] = dict.fromkeys((name for name in yardstick.columns if name in rows), float("nan"))
    return emptied | {name: "" for name in yardstick.words if name in rows}


Scope = tuple[str, ...]


def _references(
    board: pd.DataFrame, layout: Layout, yardstick: Yardstick, ids: Ids | None
) -> dict[Scope, dict[str, str]]:
    """Scope -> id of each record that makes its scale -> what its row is called there."""
    label = next(name for name in ("attack", "condition") if name in layout.key)
    found: dict[Scope, dict[str, str]] = defaultdict(dict)
    for row in board[yardstick.is_reference(board)].to_dict("records"):
        named = {str(column): value for column, value in row.items()}
        members = [str(named.get("cell", ""))] if ids is None else ids.get(layout.name_of(named), ())
        scope = tuple(str(named[column]) for column in yardstick.scope)
        found[scope] |= {one: str(named[label]) for one in members if one}
    return found


def _place(held: Mapping[str, str], known: Mapping[Scope, Mapping[str, str]]) -> tuple[Scope | None, str]:
    """What the board calls the scope of these references; None and why it has no such scope."""
    if not held:
        return None, "the run has no undefended reference; run the suite with all that the board is set against"
    lacking = ""
    for scope, references in known.items():
        if not held.keys() & references.keys():
            continue
        missing = sorted({label for one, label in references.items() if one not in held})
        if not missing:
            return scope, ""
        lacking = f"the run lacks references that the board has ({', '.join(missing)}; {' '.join(scope[:3])})"
    return None, lacking or "no undefended reference is the board's: other images, network, victims, or versions"
