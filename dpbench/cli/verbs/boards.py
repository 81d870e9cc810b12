"""`dpbench leaderboard`, `check` and `verify`: boards of what was measured, and whether they hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpbench.errors import DpbenchError, unknown
from dpbench.text.shown_text import ERROR_LIMIT, clean
from dpbench.text.terminal import make_console

if TYPE_CHECKING:
    import pandas as pd

    from dpbench.protocols.known import AnyProtocol

verbs = typer.Typer()


@verbs.command(
    epilog="Examples:\n\n  dpbench leaderboard dpbench-runs/quick --output board.csv\n\n"
    "  dpbench leaderboard run1 run2 --output board.html\n\n"
    "  dpbench leaderboard run1 run2 --plot depth --output depth.png\n\n"
    "  dpbench leaderboard run1 --equal-accuracy\n\n"
    "  dpbench leaderboard run1 --portfolio --output portfolio.csv\n\n"
    "  dpbench leaderboard run1 --plot pareto --output pareto.png\n\n"
    "  dpbench leaderboard mine --claimed theirs --output board.csv\n\n"
    "  dpbench leaderboard dpbench-runs/quick --output quick.jsonl.xz\n\n"
    "  dpbench leaderboard mine --beside leaderboards/cifar10.csv --output board.csv\n\n"
    "  dpbench leaderboard run1 --output table.tex --labels dpm='DPM (ours)' --columns defense,attacker,accuracy,ssim"
)
def leaderboard(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Run directories, or files of records (.jsonl.xz).")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            help="FILE in .csv, .md, .html or .tex; in .png, .pdf or .svg for a plot; in .jsonl.xz for the records. "
            "Needed without --equal-accuracy and --portfolio.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            help="What a plot shows: tradeoff, pareto, budgets or depth; of features for a partner benefit or "
            "transfer.",
            show_default="the first of these",
        ),
    ] = None,
    equal_accuracy: Annotated[
        bool,
        typer.Option(
            "--equal-accuracy",
            help="Print what each defense leaks where 1, 3 and 5 points of accuracy are lost; a .csv gets columns of "
            "it.",
        ),
    ] = False,
    portfolio: Annotated[
        bool,
        typer.Option(
            "--portfolio",
            help="Print what each attack is worth: where it alone is the worst case, what it adds to the others, its "
            "seconds, and which two to run; instead of a board also in a .csv or .md.",
        ),
    ] = False,
    claimed: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Run directories of others, not re-run: shown apart. May be repeated."),
    ] = None,
    beside: Annotated[
        Path | None,
        typer.Option(
            metavar="BOARD",
            help="A published board (.csv, or its records) to set these rows into: marked `own`, on its scale or said "
            "why not.",
        ),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            metavar="worst|attacks|features|all",
            help="Rows of a .tex: worst cases, single attacks or all; of shared features those attacked or all.",
            show_default="worst; of shared features all",
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME", help="Columns of a .tex, of the board's.", show_default="eight"),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=LABEL", help="What a defense is called in a .tex and in plots. May be repeated."),
    ] = None,
) -> None:
    """Derive a board from records alone: one row per cell and a worst-case row per defense setting."""
    from dpbench.protocols.known import of_run, of_runs
    from dpbench.records.archive import ENDING

    protocol = of_runs(directories)
    if portfolio:
        further = [claimed, beside, plot, rows, columns, labels, equal_accuracy]
        _portfolio(protocol, directories, output, alone=not any(further))
        return
    if output is None and not equal_accuracy:
        raise DpbenchError("leaderboard: expected --output FILE, --equal-accuracy or --portfolio")
    archived = output is not None and output.name.endswith(ENDING)
    derived = {"--claimed": claimed, "--beside": beside, "--equal-accuracy": equal_accuracy} if archived else {}
    if ignored := next((option for option, given in derived.items() if given), ""):
        raise DpbenchError(f"{ignored}: a file of records ({ENDING}) holds what was measured; leave it out")
    chosen = plot or next(iter(protocol.plots), "")
    if chosen not in protocol.plots and plot is not None:
        raise unknown("plot", chosen, protocol.plots)
    drawn = None if plot in protocol.tables else plot
    _refuse_elsewhere(output, {"--plot": drawn, "--labels": labels, "--rows": rows, "--columns": columns})
    if output is not None and archived:
        print(f"{output}: {protocol.store.write_archive(directories, output, protocol.newest)} records")
        return
    for directory in claimed or []:
        if of_run(directory) is not protocol:
            raise DpbenchError(
                f"--claimed {directory}: expected a run of the protocol {protocol.name!r}, like the others"
            )
    records, others = (protocol.store.counted(given, protocol.newest) for given in (directories, claimed or []))
    board = protocol.board(records, claimed=others)
    if beside is not None:
        from dpbench.gate.beside import beside as set_beside

        found = set_beside(protocol, records, board, beside)
        board = found.board
        for line in found.notes:
            print(f"note: {clean(line, ERROR_LIMIT)}")
    if equal_accuracy:
        board = _at_equal_accuracy(protocol, records, board)
    if output is None:
        return
    if labels:
        _label(board, labels)
    if rows is None and columns is None:
        written = protocol.write(records, board, output, chosen)
    else:
        written = _paper_table(protocol, board, output, rows, columns)
    print(f"{output}: {written} rows")


def _portfolio(protocol: AnyProtocol, directories: list[Path], output: Path | None, *, alone: bool) -> None:
    from dpbench.board.columns import CELL_LAYOUT
    from dpbench.tradeoffs.portfolio import portfolio as of_records
    from dpbench.tradeoffs.portfolio_table import assert_writable, print_portfolio, write_portfolio

    if protocol.boards.layout is not CELL_LAYOUT:
        raise DpbenchError("--portfolio is of runs whose units are cells; leave it out")
    if not alone:
        raise DpbenchError("--portfolio is no board: with it there is --output alone; leave the other options out")
    if output is not None:
        assert_writable(output)
    found = of_records(protocol.store.counted(directories, protocol.newest))
    print_portfolio(found, make_console())
    if output is not None:
        print(f"{output}: {write_portfolio(found, output)} rows")


def _at_equal_accuracy(protocol: AnyProtocol, records: Sequence[Any], board: pd.DataFrame) -> pd.DataFrame:
    """Print the table, and give back the board with its columns."""
    from dpbench.board.columns import CELL_LAYOUT
    from dpbench.tradeoffs.equal_accuracy import print_equal_accuracy
    from dpbench.tradeoffs.fronts import families, with_fronts

    if protocol.boards.layout is not CELL_LAYOUT:
        raise DpbenchError("--equal-accuracy is of boards of cells; leave it out")
    found = list(families(board, protocol.rows(records)))
    print_equal_accuracy(board, found, make_console())
    return with_fronts(board, found)


def _refuse_elsewhere(output: Path | None, given: dict[str, object]) -> None:
    """Refuse options of plots and of tables for a paper where no such file is written."""
    from dpbench.reporting.plots.plot_style import PLOTTED

    for option in (option for option, value in given.items() if value):
        wanted = {"--plot": PLOTTED, "--labels": (*PLOTTED, ".tex")}.get(option, (".tex",))
        if output is None or output.suffix.lower() not in wanted:
            came = "" if output is None else f", not {output.name}"
            raise DpbenchError(f"{option}: expected --output FILE in {', '.join(wanted)}{came}; or leave it out")


def _label(board: pd.DataFrame, labels: list[str]) -> None:
    from dpbench.reporting.plots.plot_style import with_labels

    pairs = [label.partition("=") for label in labels]
    if wrong := [name for name, sign, label in pairs if not (name and sign and label)]:
        raise DpbenchError(f"--labels {wrong[0]}: expected NAME=LABEL")
    with_labels(board, {name: label for name, _, label in pairs})


def _paper_table(
    protocol: AnyProtocol, board: pd.DataFrame, output: Path, rows: str | None, columns: str | None
) -> int:
    named = None if columns is None else [name.strip() for name in columns.split(",") if name.strip()]
    return protocol.write_paper(board, output, rows, named)


@verbs.command(
    epilog="Examples:\n\n  dpbench check dpbench-runs/quick --baseline leaderboards/quick.csv\n\n"
    "  dpbench check board.csv --baseline accepted.csv --junit report.xml --ssim 0.05\n\n"
    "  dpbench check today --baseline yesterday"
)
def check(
    candidate: Annotated[Path, typer.Argument(help="A board (.csv) or a run directory.")],
    baseline: Annotated[Path, typer.Option(help="The accepted board (.csv) or run directory.")],
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the result as JUnit XML.")] = None,
    gitlab: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="DPBENCH_GITLAB",
            help="Also write the findings as a code quality report, which GitLab shows in merge requests.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    ssim: Annotated[float, typer.Option(min=0, help="Tolerated rise of SSIM.")] = 0.02,
    psnr_db: Annotated[float, typer.Option("--psnr-db", min=0, help="Tolerated rise of PSNR, dB.")] = 0.5,
    lpips: Annotated[float, typer.Option(min=0, help="Tolerated fall of LPIPS.")] = 0.02,
    leakage: Annotated[float, typer.Option(min=0, help="Tolerated rise of leakage.")] = 0.05,
    reid_top1: Annotated[float, typer.Option("--reid-top1", min=0, help="Tolerated rise of re-identification.")] = 0.05,
    identity_top1: Annotated[
        float, typer.Option("--identity-top1", min=0, help="Tolerated rise of identification.")
    ] = 0.05,
    link_top1: Annotated[
        float, typer.Option("--link-top1", min=0, help="Tolerated rise of victims named among candidates.")
    ] = 0.05,
    accuracy: Annotated[float, typer.Option(min=0, help="Tolerated fall of accuracy.")] = 0.01,
) -> None:
    """Does this leak more, or predict worse, than the accepted baseline?

    The verdict is the first line, with how many figures were compared; what is said of several rows is one finding, and
    notes say what was not compared. A figure got worse when it is beyond its tolerance and outside the baseline's
    interval; where both are run directories, when it is so image by image. Compare runs of one machine with one number
    of threads: others fit other networks, which the default tolerances do not cover. Leakage is compared where it is
    made of the same metrics on both sides. In GitHub Actions it annotates and writes the step summary.

    Exit status: 0 nothing got worse; 1 something did, is missing, changed or failed; 2 unusable input, or nothing to
    compare.
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
        link_top1=link_top1,
        accuracy=accuracy,
    )
    status = run_check(
        candidate,
        baseline,
        tolerance=tolerance,
        junit=junit,
        environment=os.environ,
        console=make_console(),
        gitlab=gitlab,
        as_json=as_json,
    )
    raise typer.Exit(status)


@verbs.command(epilog="Examples:\n\n  dpbench verify dpbench-runs/quick\n\n  dpbench verify theirs ours")
def verify(
    directories: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run directories of either protocol, or files of records (.jsonl.xz)."),
    ],
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
