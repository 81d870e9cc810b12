"""The command line. Heavy imports happen inside the verbs, so that `--help` answers at once."""

from __future__ import annotations

from typing import Annotated

import typer

from dpbench import __version__
from dpbench.cli.endings import STATUSES, Verbs, reflowed, run_to_the_end
from dpbench.cli.verbs import again, answers, boards, cache, gate, look, report, run
from dpbench.cli.verbs.share import share
from dpbench.errors import DEBUG

app = typer.Typer(
    name="dpbench",
    cls=Verbs,
    help="Do image features leak the image? Task accuracy beside reconstruction fidelity, for every pairing of a "
    "defense with a reconstruction attack.\n\nStart with [bold]dpbench run[/bold]: it needs no data, no network and "
    "no GPU.",
    epilog=STATUSES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _verbs in (run.verbs, answers.verbs, cache.verbs, look.verbs, report.verbs, boards.verbs, gate.verbs, again.verbs):
    app.registered_commands += _verbs.registered_commands
app.add_typer(share)
app.add_typer(cache.cache)
for _command in (command for typed in (app, share, cache.cache) for command in typed.registered_commands):
    _command.help = reflowed(_command.callback)


def main() -> None:
    """Entry point; see `dpbench.cli.endings`."""
    run_to_the_end(app)


def _version(value: bool) -> None:
    if value:
        print(f"dpbench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
    protocol: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE:NAME", help="Also know a protocol of your own, path/to/file.py:Name."),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Show tracebacks, of failed cells too; {DEBUG}=1 does the same.")
    ] = False,
) -> None:
    if debug:
        import os

        os.environ[DEBUG] = "1"
    for reference in protocol or []:
        from dpbench.protocols.known import load_protocol

        load_protocol(reference)
