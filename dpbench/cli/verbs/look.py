"""`dpbench list`, `show`, `doctor` and `guide`: what there is, on this machine, in a run and in the pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpbench.errors import DpbenchError
from dpbench.text.shown_text import ERROR_LIMIT, clean
from dpbench.text.terminal import make_console

verbs = typer.Typer()


@verbs.command(
    "list",
    epilog="Examples:\n\n  dpbench list attacks\n\n  dpbench list backbones 'resnet*'\n\n"
    "  dpbench list defenses --json",
)
def list_(
    what: Annotated[str, typer.Argument(help="attacks, defenses, datasets, backbones or suites.")],
    pattern: Annotated[
        str, typer.Argument(help="A shell pattern on the names; backbones then show split points.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """What there is: one line each, parameters with defaults and ranges, what an attack needs, the paper."""
    from dpbench.cli.listing import KINDS, listing, print_listing

    if what not in KINDS:
        from dpbench.errors import unknown

        raise unknown("list", what, KINDS)
    entries = listing(what, pattern)
    if as_json:
        import json

        print(json.dumps(entries, indent=1))
    else:
        print_listing(entries, make_console())


@verbs.command(
    epilog="Examples:\n\n  dpbench show dpbench-runs/quick\n\n"
    "  dpbench show dpbench-runs/quick --cell 'dpm*decoder*weights' --open\n\n"
    "  dpbench show dpbench-runs/quick --cell 'none*decoder' --cell 'dpm*decoder' --output compared.png"
)
def show(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")],
    cell: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="A shell pattern that occurs in a cell's label. May be repeated."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the picture of the cell here; of several cells, one row for each.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the picture viewer.")] = False,
) -> None:
    """Victims and reconstructions side by side: lists the pictures of a run, opens one, or writes it to a file."""
    from dpbench.cli.showing import shown, write_shown

    found = shown(directory, cell)
    for one in found:
        print(one.line)
    if open_ and output is None and len(found) > 1:
        raise DpbenchError(f"{len(found)} cells match; narrow --cell to one, or write them to one file with --output")
    if output is not None:
        write_shown(directory, found, output)
        print(f"written to {clean(output, ERROR_LIMIT)}")
    if open_:
        typer.launch(str(output or found[0].needed(found[0].picture)))


@verbs.command(epilog="Examples:\n\n  dpbench doctor\n\n  dpbench doctor --json")
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """What this machine can do: device, precision, weights and metrics at hand, and the commands for the rest."""
    from dpbench.cli.doctor import examine, print_findings

    findings = examine()
    if as_json:
        import json

        print(json.dumps([vars(finding) for finding in findings], indent=1))
        return
    print_findings(findings, make_console())


@verbs.command(epilog="Examples:\n\n  dpbench guide\n\n  dpbench guide threat-models")
def guide(
    page: Annotated[str, typer.Argument(help="A page; without one, all pages are listed.", show_default=False)] = "",
) -> None:
    """The documentation, page by page: what attackers are granted, suites, boards, plug-ins of your own."""
    from dpbench.cli import guide as pages

    if page:
        pages.print_page(pages.page(page), make_console())
    else:
        pages.print_pages(make_console())
