"""`dpbench report`: the page of a run, for people who did not run it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpbench.text.shown_text import ERROR_LIMIT, clean

if TYPE_CHECKING:
    import pandas as pd

    from dpbench.report.content import Report

NAME = "report.html"

verbs = typer.Typer()


@verbs.command(
    epilog="Examples:\n\n  dpbench report dpbench-runs/quick\n\n  dpbench report dpbench-runs/quick --pdf\n\n"
    "  dpbench report dpbench-runs/quick --output for_the_board.html"
)
def report(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, finished or not.")],
    output: Annotated[
        Path | None, typer.Option(help="FILE ending in .html or .pdf.", show_default="RUN/report.html")
    ] = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="Print it to A4 as well; needs Chromium or Chrome.")] = False,
) -> None:
    """A page that answers in plain words: do the images come back, behind which defense, against whom.

    One file with everything in it, which opens without a network. `dpbench run` writes it too.
    """
    from dpbench.errors import DpbenchError
    from dpbench.report.page import write_page
    from dpbench.report.pdf import browser, write_pdf

    page = output or directory / NAME
    if page.suffix not in (".html", ".pdf"):
        raise DpbenchError(f"--output {page}: a report ends in .html or .pdf")
    pdf = pdf or page.suffix == ".pdf"
    if pdf:
        browser()  # before anything is computed
    found = report_of_run(directory)
    if page.suffix == ".pdf":
        with tempfile.TemporaryDirectory(prefix="dpbench-") as folder:
            write_page(found, Path(folder) / NAME)
            write_pdf(Path(folder) / NAME, page)
        written = [page]
    else:
        write_page(found, page)
        written = [page, *([page.with_suffix(".pdf")] if pdf else [])]
        if pdf:
            write_pdf(page, written[-1])
    for path in written:
        print(f"written to {clean(path, ERROR_LIMIT)}: {path.stat().st_size / 1e6:.1f} MB")


def report_of_run(directory: Path) -> Report:
    """What the page of a run says, from its records alone.

    Raises:
        DpbenchError: not a run directory, nothing in it, or something in it cannot be read.
    """
    from dpbench.errors import DpbenchError
    from dpbench.protocols.known import of_run

    protocol = of_run(directory)
    records = protocol.newest(protocol.store.all(directory))
    if not records:
        raise DpbenchError(f"{directory} holds no record yet: nothing to report; `dpbench run` writes them")
    return report_of(protocol, records, protocol.board(records), directory)


def report_of(protocol: Any, records: Sequence[Any], board: pd.DataFrame, directory: Path) -> Report:
    """The page of a protocol, or what can be said of any board where it has none."""
    from dpbench.report.boards import report_of_board

    title = ", ".join(dict.fromkeys(record.suite for record in records)) or directory.name
    found: Report | None = protocol.page(records, board, directory, title=title)
    return report_of_board(board, records, title=title) if found is None else found
