"""The report of a run directory, whichever protocol it is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dpbench.errors import DpbenchError
from dpbench.protocols.doubts import unfinished
from dpbench.protocols.known import AnyProtocol, of_run
from dpbench.records.record import Envelope
from dpbench.report.boards import report_of_board
from dpbench.report.content import Report

if TYPE_CHECKING:
    import pandas as pd

NAME = "report.html"
"""What it is called in a run directory."""


def report_of_run(directory: Path) -> Report:
    """What the page of a run says, from its records alone.

    Raises:
        DpbenchError: not a run directory, nothing in it, or something in it cannot be read.
    """
    protocol = of_run(directory)
    records = protocol.store.counted([directory], protocol.newest)
    if not records:
        raise DpbenchError(f"{directory} holds no record yet: nothing to report; `dpbench run` writes them")
    return report_of(protocol, records, protocol.board(records), directory)


def report_of(protocol: AnyProtocol, records: Sequence[Envelope], board: pd.DataFrame, directory: Path) -> Report:
    """The page of a protocol, or what can be said of any board where it has none."""
    title = ", ".join(dict.fromkeys(record.suite for record in records)) or directory.name
    found: Report | None = protocol.page(records, board, directory, title=title)
    found = report_of_board(board, records, title=title) if found is None else found
    left = unfinished(protocol, directory)
    return replace(found, untested=[f"{left}.", *found.untested]) if left else found
