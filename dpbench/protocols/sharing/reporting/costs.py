"""What it cost the senders to share, and whether what they shared names the photograph; from records alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from dpbench.board.cells import Figures, in_order, link_of
from dpbench.board.rows import LINKED, column_values
from dpbench.metrics.intervals import interval_columns, resampled_means
from dpbench.protocols.sharing.records import SharingRecord
from dpbench.protocols.sharing.reporting.columns import KNOWLEDGE
from dpbench.protocols.sharing.units import Attacked

Attack = tuple[Attacked, SharingRecord]


def cost_columns(attacks: Sequence[Attack]) -> dict[str, Any]:
    """Columns of what a release costs a sender's client, over senders and seeds: counts the largest, times the median.

    Args:
        attacks: on what was sent; records of before say nothing of its cost.
    """
    records = [record for _, record in attacks]
    row: dict[str, Any] = {}
    bits = [record.release_bits for record in records if record.release_bits is not None]
    costs = [record.cost for record in records if record.cost is not None]
    times = [record.client_ms for record in records if record.client_ms is not None]
    counts = {
        "client_multiply_adds": [cost.multiply_adds for cost in costs],
        "added_multiply_adds": [cost.added_multiply_adds for cost in costs],
        "added_parameters": [cost.added_parameters for cost in costs],
        "coded_bits": [cost.coded_bits for cost in costs],
    }
    for name, values in counts.items():
        known = [value for value in values if value is not None]
        if known:
            row[name] = max(known)
    if bits and costs:
        row["release_bits"] = max(bits)
    if times:
        row["client_ms"] = statistics.median_low(times)
    return row


def link_columns(attacks: Sequence[Attack]) -> dict[str, Any]:
    """Columns of `link`, as on other boards: of each sender and seed by who knows most, and compared most victims.

    Args:
        attacks: on what was sent, without floors.
    """
    best: dict[tuple[str, int], tuple[tuple[int, int, str], Figures, int]] = {}
    for unit, record in attacks:
        found = link_of(record.link, record.victims)
        if record.link is None or found is None:
            continue
        place = unit.sender, unit.world.seed
        strength = KNOWLEDGE.index(unit.knowledge), len(record.victims), record.id
        if place not in best or strength > best[place][0]:
            best[place] = strength, in_order(found), record.link.candidates
    named = [(figures.victims, column_values(figures, LINKED)) for _, figures, _ in best.values()]
    known = [(victims, values) for victims, values in named if values is not None]
    if not known:
        return {}
    drawn = [means[:, 0] for means in resampled_means([(victims, values[:, None]) for victims, values in known])]
    images = len({victim for victims, _ in known for victim in victims})
    means = [float(values.mean()) for _, values in known]
    columns: dict[str, Any] = {**interval_columns(LINKED, means, drawn, images)}
    return columns | {"link_chance": max(1 / candidates for *_, candidates in best.values())}
