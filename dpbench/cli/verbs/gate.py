"""`dpbench gate`: yes or no, by limits of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

verbs = typer.Typer()


@verbs.command(
    epilog="Examples:\n\n  dpbench gate dpbench-runs/quick --max-ssim 0.4 --max-reid 0.1 --min-accuracy 0.7\n\n"
    "  dpbench gate board.csv --max-reid 0.1 --defense 'dpm*' --json"
)
def gate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory or a board (.csv).")],
    max_ssim: Annotated[float | None, typer.Option(help="The most that may come back: worst-case SSIM.")] = None,
    max_reid: Annotated[float | None, typer.Option(help="The largest share of victims re-identified.")] = None,
    max_leakage: Annotated[float | None, typer.Option(help="The most leakage.")] = None,
    max_label_read: Annotated[float | None, typer.Option(help="The largest share of labels read.")] = None,
    min_accuracy: Annotated[float | None, typer.Option(help="The least top-1 accuracy.")] = None,
    defense: Annotated[
        str, typer.Option(metavar="PATTERN", help="Only defenses that this shell pattern matches.")
    ] = "*",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Yes or no: does every defended setting stay within these limits, under every attacker that was tried?

    The verdict is the first line, with the figure that is furthest beyond its limit; then every one that is. A figure
    that was not measured is beyond its limit, and so is one whose attacks failed. Undefended models are left aside
    unless --defense names them. Exit status: 0 YES, 1 NO, 2 unusable input.
    """
    from dpbench.gate.check import load_board
    from dpbench.gate.limits import judge, limits
    from dpbench.text.shown_text import clean

    allowed = limits(
        {
            "max_ssim": max_ssim,
            "max_reid": max_reid,
            "max_leakage": max_leakage,
            "max_label_read": max_label_read,
            "min_accuracy": min_accuracy,
        }
    )
    board, layout = load_board(run)
    found = judge(board, layout, allowed, defense=defense)
    if as_json:
        import json

        print(json.dumps(found.as_json(), indent=1, allow_nan=False))
    else:
        print(found.line)
        for one in found.judged:
            if not one.holds:
                print(f"  {clean(one.setting)}: {clean(one.said)}")
        if found.undefended:
            print("note: undefended models are a reference, and are not judged")
    raise typer.Exit(0 if found.answer == "YES" else 1)
