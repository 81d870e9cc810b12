"""What defenses leak where they cost as much accuracy, as a table."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpbench.board.caveats import NO_PRIVACY
from dpbench.board.columns import LOSSES
from dpbench.contract.threat import UNDEFENDED
from dpbench.text.shown_text import clean
from dpbench.tradeoffs.fronts import REFERENCE, SCOPE, Family, compared, strongest_worst_cases

NOT_REACHED = "not reached"

LEGEND = (
    "Leakage, with its 95% interval, at points of accuracy lost against the undefended model: linear between settings "
    f"of a defense that none of its others beats, and of the last beyond. {NOT_REACHED}: all its settings lose more. "
    "hypervolume: 1 minus the least leakage within a loss, averaged over losses up to "
    f"{100 * REFERENCE[0]:.0f} points; its corner is that loss and leakage {REFERENCE[1]:.0f}. "
    f"Worst case under the strongest attacker; {NO_PRIVACY}."
)


def print_equal_accuracy(board: pd.DataFrame, found: Sequence[Family], console: Console) -> None:
    """One table for each dataset, backbone, split point and seed, or all seeds; then what does not compete, and why.

    Args:
        board: from `dpbench.board.leaderboard`.
        found: its `dpbench.tradeoffs.fronts.families`.
        console: takes the lines.
    """
    scopes = list(dict.fromkeys(family.scope for family in found))
    together = {scope[:3] for scope in scopes if scope[3] == "all"}
    for scope in scopes:
        if scope[3] != "all" and scope[:3] in together:
            continue
        dataset, backbone, split_point, seed = (clean(name) for name in scope)
        console.print()
        title = Text.assemble((dataset, "bold"), f", {backbone} split at ", (split_point, "bold"))
        console.print(title + (", all seeds" if seed == "all" else f", seed {seed}"))
        console.print(_table([family for family in found if family.scope == scope]))
    if not scopes:
        console.print("no defense here has both a leakage and an accuracy lost: nothing to compare")
    for line in _left_out(board):
        console.print(Text(clean(line), style="yellow"))
    if scopes:
        console.print(Text(LEGEND, style="dim"))


def _table(found: Sequence[Family]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("defense")
    for heading in ("settings", "hypervolume", *(f"at {loss} point{'s' * (loss > 1)}" for loss in LOSSES)):
        table.add_column(heading, justify="right")
    for family in found:
        own = f" ({family.origin})" if family.origin.startswith("own") else ""
        read = [_reading(family.readings.get(loss)) for loss in LOSSES]
        table.add_row(clean(family.defense) + own, str(len(family.rows)), f"{family.hypervolume:.2f}", *read)
    return table


def _reading(figures: tuple[float, float, float] | None) -> Text:
    if figures is None:
        return Text(NOT_REACHED, style="dim")
    leak, low, high = figures
    return Text(f"{leak:.2f}" if low != low else f"{leak:.2f} [{low:.2f}, {high:.2f}]")


def _left_out(board: pd.DataFrame) -> list[str]:
    """Settings that were attacked and do not compete, by their reason."""
    rows = strongest_worst_cases(board)
    rows = rows[(rows["defense"] != UNDEFENDED) & ~rows.index.isin(compared(board).index)]
    reasons: dict[str, dict[str, None]] = {}
    for row in rows.to_dict("records"):
        if row["status"] != "ok":
            reason = f"their worst case is {row['status']}"
        elif pd.isna(row["leakage"]) or pd.isna(row["accuracy_drop"]):
            reason = "no leakage, or no accuracy lost"
        else:
            reason = "their leakage is made of other metrics"
        reasons.setdefault(reason, {})[f"{row['defense']} {row['defense_args']} ({row[SCOPE[2]]})"] = None
    return [f"left out, {reason}: {'; '.join(settings)}" for reason, settings in reasons.items()]
