"""`dpbench report` and `view`: the page of a run, for people who did not run it, and all runs of a folder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from dpbench.errors import DpbenchError
from dpbench.text.shown_text import ERROR_LIMIT, clean

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
    from dpbench.report.page import write_page
    from dpbench.viewing.pdf import browser, write_pdf
    from dpbench.viewing.reports import NAME, report_of_run

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


@verbs.command(epilog="Examples:\n\n  dpbench view\n\n  dpbench view dpbench-runs --port 8000 --open")
def view(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder with run directories, or one of them.")
    ] = Path("dpbench-runs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0: any that is free.")] = 8765,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """A local page over a folder of runs: list them, read reports, compare two, follow one that goes on.

    It answers this machine alone (127.0.0.1), changes nothing, and runs until Ctrl-C.
    """
    from dpbench.viewing.server import Server

    with Server(directory, port) as server:
        print(f"{clean(directory, ERROR_LIMIT)}: {server.url} (Ctrl-C stops it)", flush=True)
        if open_:
            typer.launch(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
