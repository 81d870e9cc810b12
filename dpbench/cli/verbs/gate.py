"""`dpbench gate`, yes or no by limits of one's own, and `dpbench ci`, a job that asks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpbench.cli import completion

if TYPE_CHECKING:
    from dpbench.gate.limits import Judged

verbs = typer.Typer()


@verbs.command(
    epilog="Examples:\n\n  dpbench gate dpbench-runs/quick --max-ssim 0.4 --max-reid 0.1 --min-accuracy 0.7\n\n"
    "  dpbench gate board.csv --max-reid 0.1 --defense 'dpm*' --json\n\n"
    "  dpbench gate dpbench-runs/sharing --max-reid 0.1 --min-gain 0.02"
)
def gate(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", autocompletion=completion.runs, help="A run directory or a board (.csv)."),
    ],
    max_ssim: Annotated[float | None, typer.Option(help="The highest SSIM of what is reconstructed.")] = None,
    max_reid: Annotated[float | None, typer.Option(help="The largest share of victims re-identified.")] = None,
    max_identity: Annotated[
        float | None, typer.Option(help="The largest share identified as one of the classes never seen.")
    ] = None,
    max_link: Annotated[
        float | None, typer.Option(help="The largest share named among candidates by comparing releases.")
    ] = None,
    max_label_read: Annotated[float | None, typer.Option(help="The largest share of labels read.")] = None,
    max_leakage: Annotated[float | None, typer.Option(help="The most leakage.")] = None,
    min_accuracy: Annotated[float | None, typer.Option(help="The least top-1 accuracy.")] = None,
    min_gain: Annotated[
        float | None, typer.Option(help="The least accuracy that a partner gains from shared features.")
    ] = None,
    max_drop: Annotated[float | None, typer.Option(help="The most accuracy lost against the undefended model.")] = None,
    defense: Annotated[
        str,
        typer.Option(metavar="PATTERN", help="Only defenses whose name, with or without parameters, this matches."),
    ] = "*",
    by: Annotated[
        str,
        typer.Option(
            metavar="interval|mean",
            help="What must stay within: the worse end of a figure's 95% interval, or its mean alone.",
        ),
    ] = "interval",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Yes or no: does every defended setting stay within these limits, under every attacker that was tried?

    The verdict is the first line, with the figure that is furthest beyond its limit; then every figure that is. One
    that was not measured, or whose attacks failed, is beyond its limit; a run that is not finished is a NO. The
    undefended model is left aside unless it is all there is, or --defense names it. Exit status: 0 YES, 1 NO,
    2 unusable input, or nothing to judge.
    """
    from dpbench.gate.check import load_side
    from dpbench.gate.findings import limits
    from dpbench.gate.limits import judge
    from dpbench.text.shown_text import clean

    allowed = limits(
        {
            "max_ssim": max_ssim,
            "max_reid": max_reid,
            "max_identity": max_identity,
            "max_link": max_link,
            "max_label_read": max_label_read,
            "max_leakage": max_leakage,
            "min_accuracy": min_accuracy,
            "min_gain": min_gain,
            "max_drop": max_drop,
        }
    )
    side = load_side(run)
    found = judge(side.board, side.layout, allowed, defense=defense, by=by, unfinished=side.unfinished)
    if as_json:
        import json

        print(json.dumps(found.as_json(), indent=1, allow_nan=False))
    else:
        print(found.line)
        for one in found.beyond:
            print(f"  {clean(f'{one.setting}: {one.said}{_by_whom(one)}')}")
        for note in found.notes:
            print(f"note: {clean(note)}")
    raise typer.Exit(0 if found.answer == "YES" else 1)


def _by_whom(judged: Judged) -> str:
    return f" ({', '.join(judged.attackers)})" if judged.attackers else ""


@verbs.command(
    epilog="Examples:\n\n  dpbench ci github > .github/workflows/dpbench.yml\n\n"
    "  dpbench ci gitlab my_suite.toml > .gitlab-ci.yml\n\n"
    "  dpbench ci github --install 'pip install ./tools/dpbench'"
)
def ci(
    service: Annotated[str, typer.Argument(help="github or gitlab.")],
    suite: Annotated[
        str, typer.Argument(autocompletion=completion.suites, help="What to run: a built-in suite or a TOML file.")
    ] = "quick",
    install: Annotated[
        str,
        typer.Option(
            metavar="COMMAND",
            help="How the job installs dpbench.",
            show_default="as it was installed here, else from a clone in the folder dpbench",
        ),
    ] = "",
) -> None:
    """Print a job that measures, compares, says yes or no, and keeps the report: cache, artifact, JUnit.

    The limits of its gate are to be changed. A comparison begins once a board is accepted as accepted.csv.
    """
    from dpbench.cli.starting import job

    print(job(service, suite, install=install), end="")
