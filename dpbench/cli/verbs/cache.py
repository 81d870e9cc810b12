"""`dpbench cache` and `fetch`: what is kept of earlier runs, and what a machine without a network needs."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from dpbench.errors import DpbenchError
from dpbench.text.shown_text import clean

cache = typer.Typer(
    name="cache",
    help="Decoded images and fitted networks that runs share; in the user's cache folder, or $DPBENCH_CACHE.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

verbs = typer.Typer()

DAY = 24 * 3600

PLACES = {"DPBENCH_CACHE": "cache", "HF_HOME": "huggingface", "TORCH_HOME": "torch"}
"""Environment variables by which dpbench, timm and torch keep what they get -> their folder in the output."""


@cache.command("list", epilog="Examples:\n\n  dpbench cache list\n\n  dpbench cache list --json")
def list_(as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False) -> None:
    """Every artefact with its size, when it was last used, and how long it took to make; least recently used first."""
    from dpbench.machine.cache import default_cache, kept

    found = list(kept(default_cache()))
    if as_json:
        import json

        print(json.dumps([{"path": str(o.path), "size": o.size, "used": o.used, **o.told} for o in found], indent=1))
        return
    for one in found:
        days = (time.time() - one.used) / DAY
        spent = f"{one.told['seconds']:8.1f} s" if isinstance(one.told.get("seconds"), int | float) else " " * 10
        print(f"{clean(one.kind):10} {one.path.stem[:12]}  {shown(one.size):>9}  {days:5.1f} days ago  {spent}")
    print(f"{len(found)} artefacts, {shown(sum(one.size for one in found))}, in {clean(str(default_cache()))}")


@cache.command(
    epilog="Examples:\n\n  dpbench cache prune --size 10GB\n\n  dpbench cache prune --days 30\n\n"
    "  DPBENCH_CACHE_SIZE=10GB dpbench run quick"
)
def prune(
    size: Annotated[str | None, typer.Option(help="Keep at most so much, such as 10GB.")] = None,
    days: Annotated[float | None, typer.Option(min=0, help="Remove what was not used for so many days.")] = None,
) -> None:
    """Remove what was least recently used. It is made again when a run needs it."""
    from dpbench.machine.cache import default_cache
    from dpbench.machine.cache import prune as remove
    from dpbench.machine.memory import parse_size

    if size is None and days is None:
        raise DpbenchError("dpbench cache prune needs --size or --days, such as --size 10GB")
    most = None if size is None else parse_size(size)
    removed = remove(default_cache(), size=most, unused_since=None if days is None else time.time() - days * DAY)
    print(f"{len(removed)} artefacts removed, {shown(sum(one.size for one in removed))}")


@cache.command(epilog="Examples:\n\n  dpbench cache verify\n\n  dpbench cache verify --remove")
def verify(
    remove: Annotated[bool, typer.Option("--remove", help="Remove what is damaged; it is made again.")] = False,
) -> None:
    """Has every artefact the content with which it was written? Exit status: 0 all have, 1 some have not.

    A run looks at each that it reads, and makes again what is damaged.
    """
    from dpbench.machine.cache import default_cache, kept

    looked = [(one, one.sound()) for one in kept(default_cache())]
    damaged = [one for one, sound in looked if sound is False]
    for one in damaged:
        print(f"damaged: {clean(str(one.path))}")
        if remove:
            one.remove()
    images = sum(sound is None for _, sound in looked)
    print(
        f"{len(looked) - images} artefacts looked at, {len(damaged)} damaged; {images} image files are checked by runs"
    )
    raise typer.Exit(1 if damaged else 0)


def shown(size: int) -> str:
    """`12.3 MB`."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1000:.1f} KB"


@verbs.command(
    epilog="Examples:\n\n  dpbench fetch cifar10 --output for-the-cluster\n\n"
    "  source for-the-cluster/env.sh; dpbench run cifar10"
)
def fetch(
    suite: Annotated[str, typer.Argument(help="A built-in suite (dpbench list suites) or a TOML file.")],
    output: Annotated[Path, typer.Option(help="The folder.")],
    data: Annotated[str | None, typer.Option(help="Overrides the suite's data, as of dpbench run.")] = None,
    shifted: Annotated[str | None, typer.Option(help="Overrides the data set of the shifted images.")] = None,
    weights: Annotated[str | None, typer.Option(help="Of the suite's only backbone, as of dpbench run.")] = None,
) -> None:
    """Gather the images and weights that a suite needs into one folder, to be copied to a machine without a network.

    Nothing is fitted. Images that are folders of your own, and packages, must be on that machine too.
    """
    # read when the libraries are loaded
    os.environ.update({name: str(output.resolve() / place) for name, place in PLACES.items()})
    from dpbench.exchange.fetching import fetch as gather
    from dpbench.exchange.fetching import size_of
    from dpbench.running.options import Options

    options = Options(data=data, shifted=shifted, weights=weights)
    count = gather(suite, options, output, lambda text: print(text, file=sys.stderr))
    size = shown(size_of(output))
    print(f"{output} holds what {count} parts of {suite} need, {size}; there: source {output / 'env.sh'}")
