"""`dpbench list`, `new`, `show`, `doctor` and `guide`: what there is, to begin with, in a run and in the pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpbench.cli import completion
from dpbench.errors import DpbenchError
from dpbench.text.shown_text import ERROR_LIMIT, clean
from dpbench.text.terminal import make_console

verbs = typer.Typer()


@verbs.command(
    "list",
    epilog="Examples:\n\n  dpbench list attacks\n\n  dpbench list backbones 'resnet*'\n\n"
    "  dpbench list defenses --json\n\n  dpbench list suites quick > my_suite.toml",
)
def list_(
    what: Annotated[str, typer.Argument(help="attacks, defenses, metrics, datasets, backbones or suites.")],
    pattern: Annotated[
        str,
        typer.Argument(help="A shell pattern on the names; backbones then show split points, a single suite its TOML."),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """What there is: one line each, parameters with defaults and ranges, what an attack needs, the paper."""
    from dpbench.cli.listing import KINDS, listing, print_listing

    if what not in KINDS:
        from dpbench.errors import unknown

        raise unknown("list", what, KINDS)
    if what == "suites" and not as_json:
        from dpbench.suite.files import built_in_suites

        if (text := built_in_suites().get(pattern)) is not None:
            print(text, end="")  # to be changed and saved
            return
    entries = listing(what, pattern)
    if as_json:
        import json

        print(json.dumps(entries, indent=1, default=str))  # a default may be a path
    else:
        print_listing(entries, make_console())


@verbs.command(epilog="Examples:\n\n  dpbench new suite my_suite.toml\n\n  dpbench new defense my_defense.py")
def new(
    kind: Annotated[str, typer.Argument(help="suite, defense, attack or metric.")],
    file: Annotated[
        Path | None, typer.Argument(help="Where it goes.", show_default="my_suite.toml, my_defense.py, ...")
    ] = None,
) -> None:
    """Write a file to begin with: it runs as it is, and is yours to change. What is there is never overwritten.

    Exit status: 0 written, 2 there is such a file already, or it cannot be written.
    """
    from dpbench.cli.starting import begin, how_to_try

    path = file or Path(f"my_{kind}{'.toml' if kind == 'suite' else '.py'}")
    text = begin(kind, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8", newline="\n") as opened:  # x: nobody else may have written it meanwhile
        opened.write(text)
    print(f"written to {clean(path, ERROR_LIMIT)}; next: {clean(how_to_try(kind, path), ERROR_LIMIT)}")


@verbs.command(
    epilog="Examples:\n\n  dpbench show dpbench-runs/quick\n\n"
    "  dpbench show dpbench-runs/quick --cell 'dpm*decoder*weights' --open\n\n"
    "  dpbench show dpbench-runs/quick --cell 'none*decoder' --cell 'dpm*decoder' --output compared.png"
)
def show(
    directory: Annotated[Path, typer.Argument(metavar="DIR", autocompletion=completion.runs, help="A run directory.")],
    cell: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            autocompletion=completion.shown,
            help="A shell pattern that occurs in a cell's label. May be repeated.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the picture of the cell here; of several cells, one row for each.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the picture viewer.")] = False,
) -> None:
    """Victims and reconstructions side by side: lists the pictures of a run, opens one, or writes it to a file."""
    from dpbench.cli.showing import listed, shown, write_shown

    found = shown(directory, cell)
    for line in listed(found):
        print(line)
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
