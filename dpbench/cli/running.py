"""`dpbench run`: the plan, the live display, and what is said and drawn at the end, for suites of every protocol."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from dpbench.executors.executor import Means
from dpbench.executors.trace import Trace
from dpbench.machine.cache import LIMIT, default_cache, parse_size, prune
from dpbench.machine.writing import write_atomically
from dpbench.protocols.known import loaded
from dpbench.records.pictures import gone, lost_and_gone
from dpbench.records.record import Envelope
from dpbench.reporting.display import Display
from dpbench.reporting.plot_style import draw_or_say
from dpbench.running.protocol import Options, Plan
from dpbench.running.runner import execute, make_plan, times_of
from dpbench.text.shown_text import ERROR_LIMIT, clean

PROFILE = "profile.json"
"""In a run directory, where the time of the last run with `--profile` went."""


def run_suite(
    suite: str,
    options: Options,
    *,
    device: str,
    batch_size: int | None,
    dry_run: bool,
    console: Console,
    means: Means | None = None,
    profile: bool = False,
) -> int:
    """Run a suite, or what of it is not finished, and show its board.

    Args:
        suite: a built-in name or a path of a TOML file.
        options: what is changed of it.
        device: auto, cpu, cuda or mps.
        batch_size: at most so many images in a network at once; None: from their size and the device's memory.
        dry_run: print the plan and stop.
        console: takes display, table and lines.
        means: workers, threads, a time limit.
        profile: say afterwards where the time went.

    Returns:
        The exit status: 1 where a unit failed.

    Raises:
        DpbenchError: input that cannot be used; finished units are kept.
    """
    protocol, chosen = loaded(suite)
    plan = make_plan(protocol, chosen, options)
    for remark in plan.remarks:
        _say(console, f"note: {remark}", style="yellow")
    if dry_run:
        _print_plan(plan, console, means or Means())
        return 0
    left = len(plan.left)
    _say(console, f"suite {plan.name}: {left} of {len(plan.units)} {protocol.unit}s to run, into {plan.output}")
    for line in plan.changed:
        _say(console, line)
    settings: dict[str, Any] = {"device": device, "batch_size": batch_size, "audit": options.audit, "means": means}
    with Display(console, plan) as display:
        trace = Trace() if profile else None
        records = execute(plan, **settings, watcher=display, trace=trace)
    if limit := os.environ.get(LIMIT):
        prune(default_cache(), size=parse_size(limit))
    attacked = [record.id for record in records if record.status == "ok" and record.attacked]
    removed = lost_and_gone(plan.output, protocol.store.restore(plan.output, records), attacked)
    stored = protocol.newest(protocol.store.all(plan.output))
    board = protocol.board(stored)
    text = protocol.as_csv(board)
    write_atomically(plan.output / "board.csv", lambda path: path.write_text(text, encoding="utf-8", newline="\n"))
    if len(stored) == len(records):
        protocol.show(stored, board, console)
    else:
        protocol.show(records, protocol.board(records), console)
    failed = [record for record in records if record.status == "failed"]
    for record in failed:
        _say(console, f"failed: {clean(record.id)}: {clean(record.error, ERROR_LIMIT)}", style="red")
    for line in (*mixed_threads(records), *protocol.doubts(records)):
        _say(console, line, style="yellow")
    drawings = protocol.drawings(stored, board, plan.output, pictures=len(gone(plan.output, attacked)) < len(attacked))
    lacking = any(not (plan.output / name).is_file() for name in drawings)
    written = ["board.csv", *(draw_or_say(drawings, console) if left or lacking else [])]
    for line in removed:
        _say(console, line, style="yellow")
    pictures = "" if removed else f", and a picture per {protocol.picture_of} in pictures/"
    _say(console, f"{plan.output}: {', '.join(written)}{pictures}")
    if trace is not None:
        trace.write(plan.output / PROFILE)
        for line in (*trace.table(), f"trace, for ui.perfetto.dev or chrome://tracing: {plan.output / PROFILE}"):
            _say(console, line)
    return 1 if failed else 0


def mixed_threads(records: Sequence[Envelope]) -> list[str]:
    """A line where records of one run were measured with different numbers of threads, as their environments say."""
    counts = sorted({count for one in records if isinstance(count := one.environment.get("threads"), int)})
    if len(counts) < 2:
        return []
    return [
        f"measured with {', '.join(map(str, counts[:-1]))} and {counts[-1]} threads: networks that were fitted with "
        "another number differ; --threads makes them the same"
    ]


def _say(console: Console, line: str, *, style: str | None = None) -> None:
    console.print(clean(line, ERROR_LIMIT), style=style, markup=False, highlight=False, soft_wrap=True)


def _print_plan(plan: Plan[Any, Any], console: Console, means: Means) -> None:
    for unit in plan.units:
        state = "finished" if unit.id in plan.finished else "to run"
        *labels, name = plan.protocol.names_of(unit)
        _say(console, f"{state:8}  {clean(labels[-1] if labels else name)}")
    _say(console, f"{len(plan.units)} {plan.protocol.unit}s, {len(plan.left)} to run, into {plan.output}")
    for line in plan.changed:
        _say(console, line)
    for line in _expected(plan, means):
        _say(console, line)


def _expected(plan: Plan[Any, Any], means: Means) -> list[str]:
    """What is left to do comes to, in tasks, time, memory and disk, as far as earlier runs say."""
    if not plan.left:
        return []
    protocol = plan.protocol
    shared = {need.key: need.name for unit in plan.left for need in protocol.ties(unit).needs}
    counted = ", ".join(f"{count} {name}" for name, count in Counter(shared.values()).items())
    lines = [f"tasks: {len(plan.left)} {protocol.unit}s, which share {counted}"] if counted else []
    spent, unknown = times_of(plan).expected(protocol.kind_of(unit) for unit in plan.left)
    if not spent.count:
        return [*lines, "time, memory and disk: no earlier run says"]
    workers = means.workers or 1
    minutes = spent.seconds / workers / 60
    lines.append(
        f"by earlier runs: about {minutes:.1f} minutes with {workers} worker{'s' if workers > 1 else ''}, "
        f"{spent.memory / 2**30:.1f} GiB of memory each, {spent.disk / 1e6:.1f} MB of disk"
        + (f"; of {unknown} {protocol.unit}s nothing is known" if unknown else "")
    )
    return lines
