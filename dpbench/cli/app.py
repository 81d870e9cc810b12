"""The command line. Heavy imports happen inside the verbs, so that `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpbench.cli.endings import STATUSES, Verbs, run_to_the_end
from dpbench.cli.share import share
from dpbench.errors import DEBUG, DpbenchError, unknown
from dpbench.text.shown_text import ERROR_LIMIT, clean
from dpbench.text.terminal import make_console

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
app.add_typer(share)


def main() -> None:
    """Entry point; see `dpbench.cli.endings`."""
    run_to_the_end(app)


@app.command(
    epilog="Examples:\n\n"
    "  dpbench run\n\n"
    "  dpbench run cifar10 --data photos/cifar10\n\n"
    "  dpbench run my_suite.toml --only dpm --seed 1\n\n"
    "  dpbench run quick --budget large\n\n"
    "  dpbench run quick --weights resnet10t.safetensors\n\n"
    "  dpbench run sharing\n\n"
    "  dpbench run quick --defense my_defense.py:MyDefense --dry-run"
)
def run(
    suite: Annotated[str, typer.Argument(help="A built-in suite (dpbench list suites) or a TOML file.")] = "quick",
    data: Annotated[
        str | None,
        typer.Option(
            help="Overrides the suite's data: a folder of class folders, leaves, spectra, torch/NAME, hfds/NAME."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The run directory.", show_default="dpbench-runs/SUITE")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    only: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="Only cells in whose label this shell pattern occurs."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Overrides the suite's seeds.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="What the attacks may spend: small, standard or large. Overrides the suite's.")
    ] = None,
    shifted: Annotated[
        str | None, typer.Option(help="Overrides the data set of the attacker's shifted images, as --data does.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Weights of the suite's only backbone: a safetensors file or a PyTorch checkpoint; "
            "or auto, pretrained, fit.",
        ),
    ] = None,
    batch_size: Annotated[
        str,
        typer.Option(
            metavar="auto|N",
            help="At most so many images in a network at once; auto: from their size and the device's memory. "
            "Halved when memory runs out.",
        ),
    ] = "auto",
    defense: Annotated[
        list[str] | None,
        typer.Option(help="Adds a defense: a name, or path/to/file.py:Name. May be repeated."),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(help="Adds an attack: a name, or path/to/file.py:Name. May be repeated."),
    ] = None,
    audit: Annotated[
        bool,
        typer.Option(
            "--audit",
            help="Runs every plug-in in processes of its own; those from files and other packages always run so.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
) -> None:
    """Score defenses against attacks; finished cells are skipped, so the same command goes on after a stop.

    Writes a JSON record and a picture per cell under the run directory; at the end board.csv, tradeoff.png and
    overview.png, budgets.png where it holds several budgets, and depth.png where it holds several split points.
    Exit status: 0 done, 1 some cells failed, 2 unusable input.
    """
    from dpbench.cli.running import run_suite
    from dpbench.machine.memory import parse_batch_size
    from dpbench.running.protocol import Options

    options = Options(
        data=data,
        output=output,
        only=only,
        seed=seed,
        shifted=shifted,
        budget=budget,
        weights=weights,
        audit=audit,
        defenses=defense or [],
        attacks=attack or [],
    )
    at_once = parse_batch_size(batch_size)
    raise typer.Exit(
        run_suite(suite, options, device=device, batch_size=at_once, dry_run=dry_run, console=make_console())
    )


@app.command(
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


@app.command(
    epilog="Examples:\n\n  dpbench leaderboard dpbench-runs/quick --output board.csv\n\n"
    "  dpbench leaderboard run1 run2 --output board.html\n\n"
    "  dpbench leaderboard run1 run2 --plot depth --output depth.png\n\n"
    "  dpbench leaderboard mine --claimed theirs --output board.csv"
)
def leaderboard(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Run directories.")],
    output: Annotated[Path, typer.Option(help="FILE ending in .csv, .md, .html or .tex; in .png for a plot.")],
    plot: Annotated[
        str | None,
        typer.Option(
            help="What a .png shows: tradeoff, budgets or depth; of features for a partner benefit or transfer.",
            show_default="the first of these",
        ),
    ] = None,
    claimed: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Run directories of others, not re-run: shown apart. May be repeated."),
    ] = None,
) -> None:
    """Derive a board from records alone: one row per cell and a worst-case row per defense setting."""
    from dpbench.protocols.known import of_run, of_runs

    protocol = of_runs(directories)
    chosen = plot or next(iter(protocol.plots), "")
    if chosen not in protocol.plots and plot is not None:
        raise unknown("plot", chosen, protocol.plots)
    for directory in claimed or []:
        if of_run(directory) is not protocol:
            raise DpbenchError(
                f"--claimed {directory}: expected a run of the protocol {protocol.name!r}, like the others"
            )
    records, others = (
        protocol.newest(record for directory in given for record in protocol.store.all(directory))
        for given in (directories, claimed or [])
    )
    rows = protocol.write(records, protocol.board(records, claimed=others), output, chosen)
    print(f"{output}: {rows} rows")


@app.command(
    epilog="Examples:\n\n  dpbench check dpbench-runs/quick --baseline leaderboards/quick.csv\n\n"
    "  dpbench check board.csv --baseline accepted.csv --junit report.xml --ssim 0.05\n\n"
    "  dpbench check today --baseline yesterday"
)
def check(
    candidate: Annotated[Path, typer.Argument(help="A board (.csv) or a run directory.")],
    baseline: Annotated[Path, typer.Option(help="The accepted board (.csv) or run directory.")],
    junit: Annotated[Path | None, typer.Option(help="Also write the result as JUnit XML.")] = None,
    ssim: Annotated[float, typer.Option(min=0, help="Tolerated rise of SSIM.")] = 0.02,
    psnr_db: Annotated[float, typer.Option("--psnr-db", min=0, help="Tolerated rise of PSNR, dB.")] = 0.5,
    lpips: Annotated[float, typer.Option(min=0, help="Tolerated fall of LPIPS.")] = 0.02,
    leakage: Annotated[float, typer.Option(min=0, help="Tolerated rise of leakage.")] = 0.05,
    reid_top1: Annotated[float, typer.Option("--reid-top1", min=0, help="Tolerated rise of re-identification.")] = 0.05,
    identity_top1: Annotated[
        float, typer.Option("--identity-top1", min=0, help="Tolerated rise of identification.")
    ] = 0.05,
    accuracy: Annotated[float, typer.Option(min=0, help="Tolerated fall of accuracy.")] = 0.01,
) -> None:
    """The gate: does this leak more, or predict worse, than the accepted baseline?

    A figure got worse when it is beyond its tolerance and outside the baseline's interval; where both are run
    directories, when it is so image by image. Compare runs of one machine with one number of threads: others fit
    other networks, which the default tolerances do not cover. Leakage is compared where it is made of the same
    metrics on both sides. The verdict says how many figures were compared, and notes say what was not. Exit status:
    0 nothing got worse; 1 something did, is missing, changed or failed; 2 unusable input, or nothing to compare. In
    GitHub Actions it annotates and writes the step summary.
    """
    import os

    from dpbench.gate.check import run_check
    from dpbench.gate.findings import Tolerance

    tolerance = Tolerance(
        ssim=ssim,
        psnr_db=psnr_db,
        lpips=lpips,
        leakage=leakage,
        reid_top1=reid_top1,
        identity_top1=identity_top1,
        accuracy=accuracy,
    )
    status = run_check(
        candidate, baseline, tolerance=tolerance, junit=junit, environment=os.environ, console=make_console()
    )
    raise typer.Exit(status)


@app.command(
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


@app.command(epilog="Examples:\n\n  dpbench verify dpbench-runs/quick\n\n  dpbench verify theirs ours")
def verify(
    directories: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories, of either protocol.")],
) -> None:
    """Does a run fit together? Digests and ranges of its records, and their figures computed again from its images.

    MSE, PSNR, SSIM and LPIPS of the images that a run keeps, as far as 8 bits say them; that victims are those that
    were attacked, that files were not exchanged, that the board is that of the records. No plug-in is imported. Exit
    status: 0 nothing contradicts itself; 1 something does; 2 no run.
    """
    from dpbench.gate.verification import verify as look

    found = look(directories)
    print(found.verdict)
    for place, message in found.findings:
        print(f"{clean(place, ERROR_LIMIT)}: {clean(message, ERROR_LIMIT)}")
    for remark in found.remarks:
        print(f"note: {clean(remark, ERROR_LIMIT)}")
    raise typer.Exit(1 if found.findings else 0)


@app.command(epilog="Examples:\n\n  dpbench doctor\n\n  dpbench doctor --json")
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


@app.command(epilog="Examples:\n\n  dpbench guide\n\n  dpbench guide threat-models")
def guide(
    page: Annotated[str, typer.Argument(help="A page; without one, all pages are listed.", show_default=False)] = "",
) -> None:
    """The documentation, page by page: what attackers are granted, suites, boards, plug-ins of your own."""
    from dpbench.cli import guide as pages

    if page:
        pages.print_page(pages.page(page), make_console())
    else:
        pages.print_pages(make_console())


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(f"dpbench {version('dpbench')}")
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
