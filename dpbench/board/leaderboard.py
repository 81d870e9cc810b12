"""Records -> board: one row per cell, and one worst-case row per defense setting and attacker.

Derived from records alone; the order in which they are read does not matter. The rules are in
dpbench/guide/how-it-is-measured.md, for people who read boards and not code.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dpbench.board.cells import (
    PER_IMAGE,
    Cell,
    Figures,
    Tier,
    bound_of,
    cells_by_place,
    cells_of,
    grouped,
    in_order,
    link_of,
)
from dpbench.board.columns import COLUMNS, DEFAULT_HEADLINE, FLOOR, KEY, WORST_CASE, tidy, with_arguments
from dpbench.board.comparisons import ties
from dpbench.board.leakage import normalised
from dpbench.board.rows import BoardRow, RowTable, Sample, on_common_seeds, over_all_seeds, sorted_rows
from dpbench.board.worst_cases import Scope, ensemble_of, none_converged, outcome, tiers_of, unreliable_cells
from dpbench.contract.threat import BUDGETS
from dpbench.records.record import Record, Utility


def build_board(records: Iterable[Record], *, claimed: Iterable[Record] = ()) -> pd.DataFrame:
    """The board of some records: columns as in dpbench/guide/boards.md, sorted, figures rounded.

        >>> from pathlib import Path
        >>> from dpbench.records.store import CELLS
        >>> board = dpbench.build_board(CELLS.all(Path("runs/tiny")))
        >>> list(board["status"].unique())
        ['ok']

    Args:
        records: what was measured here.
        claimed: what others submitted and nobody measured again: rows of their own after the measured ones, which
            change nothing in those.
    """
    arguments: dict[str, dict[Any, str]] = {}
    boards = [_tabulated(given, origin, arguments) for origin, given in (("measured", records), ("claimed", claimed))]
    filled = [board for board in boards if len(board)]
    board = pd.concat(filled, ignore_index=True) if filled else boards[0]
    return with_arguments(board, arguments)


def build_rows(records: Iterable[Record]) -> list[BoardRow]:
    """The rows of a board with the per-image figures they rest on, not sorted."""
    return [row for rows in _rows_by_place(records) for row in rows]


def _rows_by_place(records: Iterable[Record]) -> Iterator[list[BoardRow]]:
    """The rows of one dataset, backbone and split point at a time: no row is compared with those of another."""
    for cells in cells_by_place(records if isinstance(records, Sequence) else list(records)):
        rows = _rows_at(cells)
        del cells  # before the next place is read
        yield rows
        del rows


def _rows_at(cells: Sequence[Cell]) -> list[BoardRow]:
    groups = grouped(cells, lambda cell: cell.name.group).values()
    rows = [row for group in groups for row in _rows_of(Scope(group))]
    return rows + _rows_over_seeds(rows)


def _tabulated(records: Iterable[Record], origin: str, arguments: dict[str, dict[Any, str]]) -> pd.DataFrame:
    """The rows of one origin; `arguments` takes what `defense_args` of each says."""
    table = RowTable()
    for rows in _rows_by_place(records):
        tied = ties(rows)
        for row in rows:
            table.add(row.columns() | {"tied": tied.get(row, ""), "origin": origin})
            arguments[row.name.defense_args] = dict(row.name.arguments)
        del rows, row, tied
    if not table.count:
        return tidy(pd.DataFrame(columns=list(COLUMNS)))
    return sorted_rows(tidy(table.frame()))


def _rows_of(scope: Scope) -> list[BoardRow]:
    """Rows of one dataset, backbone, split point and seed: the scope of accuracy drop and leakage."""
    unreliable = unreliable_cells(scope)
    rows = [_cell_row(cell, scope, unreliable.get(cell.record.id)) for cell in scope.cells]
    for setting in scope.settings():
        rows += [_worst_row(setting, tier, scope, unreliable) for tier in tiers_of(setting)]
    if any(cell.floor for cell in scope.reference):
        rows.append(_floor_row(scope))
    return rows


def _cell_row(cell: Cell, scope: Scope, doubt: str | None) -> BoardRow:
    record = cell.record
    error = "" if cell.ok else _one_line(record.error or "no reason given")
    facts = _facts([cell], [cell]) | {
        "status": "unreliable" if doubt else record.status,
        "error": doubt or error,
        "converged": {True: "yes", False: "no", None: ""}[record.converged],
        "cell": record.id,
    }
    utility = record.utility if cell.ok else None
    return BoardRow(cell.name, facts, (_sample([cell], cell.figures, scope, utility),), (record.id,))


def _worst_row(setting: list[Cell], tier: Tier, scope: Scope, unreliable: Mapping[str, str]) -> BoardRow:
    members = scope.members(setting, tier)
    found, status, error = outcome(members, unreliable)
    attacks = [cell for cell in members if not cell.floor] or members
    name = dataclasses.replace(
        setting[0].name,
        attack=WORST_CASE,
        threat_model=tier.threat_model,
        auxiliary=tier.auxiliary,
        releases=tier.releases,
        server=tier.named_server,
        budget=BUDGETS[max(cell.budget_rank for cell in attacks)],
    )
    facts = _facts(members, setting) | {
        "status": status,
        "error": error,
        "ensemble": ensemble_of(members, tier),
        "converged": "no" if none_converged(members) else "",
    }
    own = [cell for cell in attacks if cell in setting]
    return BoardRow(name, facts, (_sample(own or setting, found, scope, _utility(setting)),), _ids(members))


def _floor_row(scope: Scope) -> BoardRow:
    """The zero of the scale, as a row of the undefended model."""
    found, status, error = outcome(scope.floors, {})
    strongest = max((cell.tier for cell in scope.floors), key=lambda tier: tier.strength)
    name = dataclasses.replace(
        scope.floors[0].name,
        attack=FLOOR,
        threat_model=strongest.threat_model,
        auxiliary=strongest.auxiliary,
        releases=strongest.releases,
        server=strongest.named_server,
        budget=BUDGETS[max(cell.budget_rank for cell in scope.floors)],
    )
    facts = _facts(scope.floors, scope.reference) | {"status": status, "error": error}
    return BoardRow(name, facts, (_sample(scope.floors, found, scope, _utility(scope.reference)),), _ids(scope.floors))


def _ids(members: Sequence[Cell]) -> tuple[str, ...]:
    return tuple(cell.record.id for cell in members)


def _sample(own: Sequence[Cell], found: Figures | None, scope: Scope, utility: Utility | None) -> Sample:
    """What a row rests on; `own` are the cells of its setting."""
    guarantee = _guarantee(own)
    bound = bound_of(guarantee.record) if guarantee is not None else None
    trained_on = {metric for cell in own for metric in cell.record.trained_on}
    reference = _utility(scope.reference)
    linking = _linking(own)
    link = link_of(linking.record.link, linking.record.victims) if linking is not None else None
    return Sample(
        seed=own[0].name.seed,
        figures=found,
        scaled=normalised(found, scope.scale_of(own[0]), trained_on),
        correct=utility.correct if utility else [],
        top5=utility.top5 or [] if utility else [],
        undefended_correct=reference.correct if reference else [],
        test_set=own[0].test_set,
        bound=in_order(bound) if bound is not None else None,
        link=in_order(link) if link is not None else None,
    )


def _facts(members: Sequence[Cell], setting: Sequence[Cell]) -> dict[str, Any]:
    """The columns that are no means over images: of the attacks of a row, and of its defense setting."""
    recognised = [cell.record.recognition for cell in members if cell.record.recognition is not None]
    bits = [cell.record.release_bits for cell in setting if cell.record.release_bits is not None]
    guarantee = _guarantee([cell for cell in members if cell in setting])
    guaranteed = guarantee.record.guarantees if guarantee is not None else None
    linking = _linking([cell for cell in members if cell in setting])
    return {
        "status": "",
        "error": "",
        "ensemble": "",
        "converged": "",
        "reid_chance": max((1 / found.gallery for found in recognised if found.gallery), default=np.nan),
        "identity_chance": max((1 / found.identities for found in recognised if found.identities), default=np.nan),
        "headline": next((cell.record.headline for cell in setting if cell.record.headline != DEFAULT_HEADLINE), ""),
        "judge_accuracy": recognised[0].judge_accuracy if recognised else np.nan,
        "release_bits": bits[0] if bits else None,
        **_cost(setting),
        "link_chance": 1 / linking.record.link.candidates if linking is not None and linking.record.link else np.nan,
        "epsilon": guaranteed.epsilon if guaranteed is not None else None,
        "delta": guaranteed.delta if guaranteed is not None else None,
        "information_bits": guaranteed.information_bits if guaranteed is not None else None,
        "trained_on": " ".join(sorted({metric for cell in setting for metric in cell.record.trained_on})),
        "seconds": sum(sum(cell.record.seconds.values()) for cell in members),
        "cell": "",
    }


def _guarantee(cells: Sequence[Cell]) -> Cell | None:
    """Of those with a guarantee the one with the most releases, which weaken it, then with the most victims."""
    having = [cell for cell in cells if cell.record.guarantees is not None]
    rank = [(cell.record.cell.releases, len(cell.record.victims), cell.record.id) for cell in having]
    return having[rank.index(max(rank))] if having else None


def _linking(cells: Sequence[Cell]) -> Cell | None:
    """Of the attackers who compared releases the one who knew most: the defense, then the most releases and victims."""
    having = [cell for cell in cells if cell.record.link is not None and cell.ok and not cell.floor]

    def knows(cell: Cell) -> tuple[bool, int, int, str]:
        return cell.tier.threat_model != "static", cell.tier.releases, len(cell.record.victims), cell.record.id

    return max(having, key=knows, default=None)


def _cost(setting: Sequence[Cell]) -> dict[str, Any]:
    """The columns of what the client of a setting costs, where some record of it says so."""
    having = [cell.record for cell in setting if cell.record.cost is not None]
    if not having:
        return {}
    first, cost = having[0], having[0].cost
    times = [record.client_ms for record in having if record.client_ms is not None]
    assert cost is not None
    return {
        "client_multiply_adds": cost.multiply_adds,
        "added_multiply_adds": cost.added_multiply_adds,
        "added_parameters": cost.added_parameters,
        "coded_bits": cost.coded_bits,
        "client_share": first.released.get("client_share"),
        "client_ms": statistics.median_low(times) if times else np.nan,
    }


def _utility(cells: Sequence[Cell]) -> Utility | None:
    """The accuracy of a setting: measured before the attack, so failed cells may have it too."""
    return next((cell.record.utility for cell in cells if cell.record.utility is not None), None)


def _one_line(text: str, width: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."


def _rows_over_seeds(rows: Sequence[BoardRow]) -> list[BoardRow]:
    """One more row for each that exists with several seeds."""

    def apart_from_seed(row: BoardRow) -> tuple[object, ...]:
        # the budget of a worst case is that of its strongest member, and may differ if a seed lacks that one
        derived = row.name.attack in (WORST_CASE, FLOOR)
        return dataclasses.astuple(dataclasses.replace(row.name, seed="", budget="" if derived else row.name.budget))

    found = [over_all_seeds(same) for same in grouped(rows, apart_from_seed).values() if len(same) > 1]
    settings = grouped(found, lambda row: (row.name.group, row.name.defense, row.name.defense_args))
    return [row for same in settings.values() for row in on_common_seeds(same)]


def per_image(records: Iterable[Record]) -> pd.DataFrame:
    """Per-image figures: one row per cell and victim; a failed cell is one row without figures.

    Columns: those that name the row, `status`, `error`, `cell`, `floor`, `accuracy` of the defense, `victim`
    (its place), `victim_hash`, `correct` (top-1 on it), `mse`, `psnr_db` (at most 80), `ssim`, `lpips`, `reid_rank`
    (how many test images are at least as near: 0 is a match), `identity_rank` (likewise of classes), `label_read`,
    `link_rank` where releases were compared (likewise of candidates), then metrics of one's own.
    """
    rows: list[dict[str, Any]] = []
    cells = list(cells_of(list(records), as_recorded=True))
    for cell in cells:
        record = cell.record
        shared = cell.name.columns() | {"status": record.status, "error": record.error or "", "cell": record.id}
        shared |= {"floor": cell.floor, "accuracy": record.utility.accuracy if record.utility else np.nan}
        if cell.figures is None:
            rows.append(shared)
            continue
        correct = record.utility.correct if record.utility else []
        for index, victim in enumerate(record.victims):
            own = {metric: float(array[index]) for metric, array in cell.figures.values.items()}
            own |= {"link_rank": float(record.link.rank[index])} if record.link is not None else {}
            seen = {"correct": correct[index]} if index < len(correct) else {}
            rows.append(shared | {"victim": index, "victim_hash": victim} | seen | own)
    named = [*KEY, *(["server"] if any(row["server"] for row in rows) else [])]
    columns = [*named, "status", "error", "cell", "floor", "accuracy", "victim", "victim_hash", "correct", *PER_IMAGE]
    added = {facts.name for cell in cells for facts in cell.record.metrics}
    columns += [*(["link_rank"] if any("link_rank" in row for row in rows) else []), *sorted(added)]
    frame = pd.DataFrame(rows).reindex(columns=columns)
    types = {"victim": "Int64", "correct": "boolean"} | dict.fromkeys([*PER_IMAGE, *added], "float64")
    return frame.astype(types | {"reid_rank": "Int64", "identity_rank": "Int64", "label_read": "boolean"})
