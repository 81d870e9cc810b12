"""`dpbench reproduce` and `score`: what was measured, measured again or by a further metric."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from dpbench.text.shown_text import ERROR_LIMIT, clean
from dpbench.text.terminal import make_console, working

verbs = typer.Typer()


@verbs.command(
    epilog="Examples:\n\n  dpbench reproduce leaderboards/quick.csv --row 1\n\n"
    "  dpbench reproduce leaderboards/cifar10-standard.csv --row 12 --data photos/cifar10 "
    "--shifted photos/tiny-imagenet"
)
def reproduce(
    board: Annotated[
        Path, typer.Argument(help="A published board (.csv, its records beside it), a file of records, or a run.")
    ],
    row: Annotated[
        str, typer.Option(metavar="N|ID", help="Its number on the board, from 1, or the id of a cell or part.")
    ],
    data: Annotated[str | None, typer.Option(help="Where the images lie on this machine.")] = None,
    shifted: Annotated[
        str | None, typer.Option(help="Likewise the attacker's images of another data set, where the row has such.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The run directory.", show_default="dpbench-runs/BOARD-ROW")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    batch_size: Annotated[
        str, typer.Option(metavar="auto|N", help="At most so many images in a network at once.")
    ] = "auto",
) -> None:
    """Measure a row of a board again, from its records: does it fall inside its published intervals?

    All cells that the row is made of are measured, of a sharing board its trainings and attacks; the scale, what gain
    is set against and the others are those of the board. Intervals are over
    images: of a board with a single seed they leave out the randomness of training. Exit status: 0 every figure is
    inside; 1 one is not, or a cell failed; 2 unusable input, such as other images.
    """
    from dpbench.gate.reproduction import row_again
    from dpbench.machine.memory import parse_batch_size
    from dpbench.reporting.display import Display
    from dpbench.running.runner import execute

    console = make_console()
    at_once = parse_batch_size(batch_size)
    again = row_again(board, row, data=data, shifted=shifted, output=output)
    to_do = f"{len(again.plan.left)} of {len(again.plan.units)} {again.plan.protocol.unit}s to run"
    print(f"{clean(again.name)}: {to_do}, into {again.plan.output}")
    with Display(console, again.plan) as display:
        records = execute(again.plan, device=device, batch_size=at_once, watcher=display)
    found = again.compared(records)
    print(clean(found.verdict, ERROR_LIMIT))
    for one in found.figures if not found.failed else ():
        outside = "" if one.inside else "  outside"
        print(f"  {one.column:13} {one.now:8.4f}, published {one.was:.4f} [{one.low:.4f}, {one.high:.4f}]{outside}")
    for line in found.failed:
        print(f"failed: {clean(line, ERROR_LIMIT)}")
    for line in found.notes:
        print(f"note: {line}")
    raise typer.Exit(0 if found.holds else 1)


@verbs.command(
    epilog="Examples:\n\n  dpbench score dpbench-runs/quick --metric lpips\n\n"
    "  dpbench score dpbench-runs/quick --metric mine.py:Sharpness"
)
def score(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    metric: Annotated[list[str], typer.Option(help="A name, or path/to/file.py:Name. May be repeated.")],
) -> None:
    """Measure a further metric of the images that a run keeps; no attack runs again.

    A run keeps the first 16 victims of each attack, in 8 bits. Their figures go to DIR/scores/METRIC.csv; where an
    attack had no more victims, also into its record and into the board. Exit status: 0 done, or all records have it;
    1 nothing could be measured; 2 unusable input.
    """
    from dpbench.protocols.scoring import score as measure

    console = make_console()
    with working(console) as progress:
        found = measure(run, metric, progress)
    for one in found.scores:
        whole = "" if one.recorded else f", of {len(one.record.victims)}: not in the record"
        said = f"{one.metric} {one.mean:.4f} over {len(one.figures)} victims{whole}"
        print(f"{clean(one.record.named.label)}: {said}")
    for name, count in Counter(one.metric for one in found.known).items():
        print(f"note: {clean(name)} is in {count} record{'s' if count > 1 else ''} already")
    for line in found.remarks:
        print(f"note: {clean(line, ERROR_LIMIT)}")
    for path in found.files:
        print(path)
    raise typer.Exit(0 if found.scores or found.known else 1)
