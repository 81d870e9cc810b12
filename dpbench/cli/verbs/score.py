"""`dpbench score`: a metric after the fact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpbench.text.shown_text import ERROR_LIMIT, clean
from dpbench.text.terminal import make_console

verbs = typer.Typer()


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
    attack had no more victims, also into its record and into the board. Exit status: 0 done; 1 nothing was measured;
    2 unusable input.
    """
    from rich.text import Text

    from dpbench.protocols.scoring import score as measure

    console = make_console()
    with console.status("starting") as status:
        found = measure(run, metric, lambda text: status.update(Text(clean(text))))
    for one in found.scores:
        whole = "" if one.recorded else f", of {len(one.record.victims)}: not in the record"
        said = f"{one.metric} {one.mean:.4f} over {len(one.figures)} victims{whole}"
        print(f"{clean(one.record.named.label)}: {said}")
    for line in found.remarks:
        print(f"note: {clean(line, ERROR_LIMIT)}")
    for path in found.files:
        print(path)
    raise typer.Exit(0 if found.scores else 1)
