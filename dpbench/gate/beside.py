"""One's own rows in a published board: marked, and on its scale, or with the reason why they are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dpbench.board.columns import CELL_LAYOUT, FLOOR, WORST_CASE, Layout, arguments_of, tidy, with_arguments
from dpbench.board.rows import sorted_rows
from dpbench.contract.threat import UNDEFENDED
from dpbench.errors import DpbenchError

OWN = "own"
"""`origin` of a row from one's own run on the scale of the board that it stands in."""

ELSEWHERE = "own, another scale"
"""`origin` of one whose leakage cannot be compared with the board's, and is left out."""

SCOPE = ["dataset", "backbone", "split_point", "seed"]

LEAKAGE = ("leakage", "leakage_ssim", "leakage_psnr_db", "leakage_lpips")


@dataclass(frozen=True)
class Beside:
    """A board with one's own rows in it.

    Attributes:
        board: all rows, in order.
        notes: what a reader must know of the own ones, a line each.
    """

    board: pd.DataFrame
    notes: list[str]


def set_beside(own: pd.DataFrame, published: pd.DataFrame, layout: Layout) -> Beside:
    """Set the rows of a run into a published board.

    The scale of a board is its undefended model under its attacks, beside its floors. A run has it where it holds
    those cells too: the same images, network, split point, attacks and victims, as their ids say. Then its undefended
    rows and floors are left out, since the board has them.

    Args:
        own: the board of the run.
        published: from a CSV file, or of records.
        layout: how both name their rows.

    Raises:
        DpbenchError: the boards are not of cells, or the run holds no row.
    """
    if layout is not CELL_LAYOUT:
        raise DpbenchError("--beside: such boards have no scale that rows of another run could stand on; leave it out")
    if own.empty:
        raise DpbenchError("--beside: the run holds no row; run the suite first")
    notes: list[str] = []
    parts = [published]
    for scope, rows in own.groupby(SCOPE, sort=False):
        there, why = _place(rows, published)
        here = " ".join(str(name) for name in scope[:3])
        if there is None:
            notes.append(f"{here}: {why}; its leakage is left out, and its other figures are of a run of its own")
            rows = rows.assign(origin=ELSEWHERE, tied="", **_without_leakage(rows))
        else:
            rows = rows[~_reference(rows)].assign(origin=OWN, tied="", **there)
            notes += [f"{here}: {line}" for line in why.splitlines()]
            notes.append(f"{here}: {len(rows)} rows set into the board, on its scale")
        parts.append(rows)
    board = sorted_rows(tidy(pd.concat(parts, ignore_index=True)))
    return Beside(with_arguments(board, {**arguments_of(published), **arguments_of(own)}), notes)


def _without_leakage(rows: pd.DataFrame) -> dict[str, Any]:
    columns = [f"{name}{end}" for name in LEAKAGE for end in ("", "_low", "_high")]
    emptied: dict[str, Any] = dict.fromkeys((name for name in columns if name in rows), float("nan"))
    return emptied | {name: "" for name in ("leakage_metrics",) if name in rows}


def _reference(rows: pd.DataFrame) -> pd.Series[bool]:
    """Rows of the undefended model, and its floor."""
    return (rows["defense"] == UNDEFENDED) | (rows["attack"] == FLOOR)


def _place(rows: pd.DataFrame, published: pd.DataFrame) -> tuple[dict[str, str] | None, str]:
    """What the board calls the scope of these rows, and remarks on it; None and why it has no such scope."""
    held = set(rows.loc[_reference(rows), "cell"]) - {""}
    if not held:
        return None, "the run has no undefended model; run the suite with the defense `none` and the board's attacks"
    best, lacking = "", []
    for scope, known in published[published["origin"] == "measured"].groupby(SCOPE, sort=False):
        cells = known.loc[_reference(known) & (known["cell"] != ""), ["cell", "attack"]]
        if cells.empty or not held & set(cells["cell"]):
            continue
        missing = sorted(set(cells.loc[~cells["cell"].isin(held), "attack"]))
        if missing:
            best, lacking = " ".join(str(name) for name in scope[:3]), missing
            continue
        named = dict(zip(SCOPE, (str(name) for name in scope), strict=True))
        return named, "\n".join(_differences(rows, known))
    if lacking:
        return None, f"the run lacks attacks on the undefended model that the board has ({', '.join(lacking)}; {best})"
    return None, "no cell of its undefended model is on the board: other images, network, victims, or versions"


def _differences(rows: pd.DataFrame, known: pd.DataFrame) -> Iterator[str]:
    """Where the undefended model of a run is another fit than the board's."""
    here, there = (_undefended(part) for part in (rows, known))
    if here is None or there is None:
        return
    for column, decimals in (("accuracy", 3), ("ssim", 3)):
        mean, low, high = (there[f"{column}{end}"] for end in ("", "_low", "_high"))
        if pd.notna(low) and not low <= here[column] <= high:
            yield (
                f"another fit of the network: undefended {column} {here[column]:.{decimals}f}, on the board "
                f"{mean:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]; read differences with that in mind"
            )
    if here.get("leakage_metrics", "") != there.get("leakage_metrics", ""):
        yield (
            f"leakage is made of {here.get('leakage_metrics', '') or 'nothing'}, on the board of "
            f"{there.get('leakage_metrics', '') or 'nothing'}: do not compare it"
        )


def _undefended(rows: pd.DataFrame) -> pd.Series | None:
    """The worst case of the undefended model: the first such row of a board is the strongest attacker's."""
    found = rows[(rows["defense"] == UNDEFENDED) & (rows["attack"] == WORST_CASE)]
    return None if found.empty else found.iloc[0]
