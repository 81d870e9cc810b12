"""`dpbench cache`: what is kept of earlier runs."""

from __future__ import annotations

import time
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

DAY = 24 * 3600


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
    from dpbench.machine.cache import default_cache, parse_size
    from dpbench.machine.cache import prune as remove

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
