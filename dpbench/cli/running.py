"""`dpbench run`: the plan, the live display, and what is said and drawn at the end, for suites of every protocol."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from dpbench.executors.executor import Means
from dpbench.executors.times import Trace
from dpbench.machine.cache import LIMIT, default_cache, prune
from dpbench.machine.devices import choose_device
from dpbench.machine.memory import parse_size
from dpbench.machine.writing import write_changed
from dpbench.protocols.known import loaded
from dpbench.records.collected import heads_of
from dpbench.records.pictures import gone, lost_and_gone
from dpbench.records.record import Envelope
from dpbench.records.repeats import Repeats, content_of
from dpbench.report.page import write_page
from dpbench.reporting.display import Display
from dpbench.reporting.plots.plot_style import draw_or_say
from dpbench.reporting.trackers import TRACKERS, tracker
from dpbench.running.options import Options
from dpbench.running.protocol import Plan
from dpbench.running.runner import execute, make_plan, times_of
from dpbench.running.watching import Several
from dpbench.text.shown_text import ERROR_LIMIT, clean
from dpbench.viewing.reports import NAME, report_of

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
    trackers: Sequence[str] = (),
    repeats: Repeats | None = None,
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
        trackers: further programs that follow the run, see `dpbench.reporting.trackers`.
        repeats: where what a finished run shows is kept, for when it is asked for again.

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
    _say_what_is_left(console, plan, left)
    for line in plan.changed:
        _say(console, line)
    settings: dict[str, Any] = {"device": device, "batch_size": batch_size, "audit": options.audit, "means": means}
    choose_device(device)  # before anything is written
    followers = [tracker(name, plan.output) for name in trackers if left or name not in TRACKERS]
    # several shares have one directory: whoever follows it sees all of them
    settings["consists_of"] = plan.everything if options.shard else None
    with Display(console, plan) as display:
        trace = Trace() if profile else None
        records = execute(plan, **settings, watcher=Several(display, *followers), trace=trace)
    if limit := os.environ.get(LIMIT):
        prune(default_cache(), size=parse_size(limit))
    attacked = [record.id for record in records if record.status == "ok" and record.attacked]
    removed = lost_and_gone(plan.output, protocol.store.restore(plan.output, records), attacked)
    of_records = plan.output / protocol.store.folder
    rests_on = of_records, content_of(of_records)
    stored = protocol.store.counted([plan.output], protocol.newest)
    board = protocol.board(stored)
    text = protocol.as_csv(board)
    write_changed(plan.output / "board.csv", text)
    shown = (stored, board) if len(stored) == len(records) else (records, protocol.board(records))
    protocol.show(*shown, console)
    failed = [records[number] for number, head in enumerate(heads_of(records)) if head.status == "failed"]
    for record in failed:
        _say(console, f"failed: {clean(record.id)}: {clean(record.error, ERROR_LIMIT)}", style="red")
    remarks = [*mixed_threads(records), *protocol.doubts(records)]
    for line in remarks:
        _say(console, line, style="yellow")
    shown_pictures = len(gone(plan.output, attacked)) < len(attacked)
    drawings: dict[str, Any] = dict(protocol.drawings(stored, board, plan.output, pictures=shown_pictures))
    drawings[NAME] = lambda: write_page(report_of(protocol, stored, board, plan.output), plan.output / NAME)
    draw_or_say({name: drawings[name] for name in drawings if left or not (plan.output / name).is_file()}, console)
    there = ["board.csv", *(name for name in drawings if (plan.output / name).is_file())]
    for line in removed:
        _say(console, line, style="yellow")
    pictures = "" if removed else f", and a picture per {protocol.picture_of} in pictures/"
    last = f"{plan.output}: {', '.join(there)}{pictures}"
    _say(console, last)
    if repeats is not None and not (failed or removed):
        _keep(repeats, plan, console, shown, [*remarks, last], rests_on)
    if trace is not None:
        trace.write(plan.output / PROFILE)
        for line in trace.table():
            console.print(line, markup=False, highlight=False, soft_wrap=True)  # in columns, of numbers and own words
        _say(console, f"trace, for ui.perfetto.dev or chrome://tracing: {plan.output / PROFILE}")
    return 1 if failed else 0


def _keep(
    repeats: Repeats,
    plan: Plan[Any, Any],
    console: Console,
    shown: tuple[Sequence[Any], Any],
    closing: Sequence[str],
    rests_on: tuple[Path, str],
) -> None:
    """Keep what the same command will show, now that nothing is left to do."""
    found = [plan.protocol.inputs(unit) for unit in plan.units]
    inputs = {path for paths in found if paths is not None for path in paths}
    if None in found:
        return
    with console.capture() as captured:
        for remark in plan.remarks:
            _say(console, f"note: {remark}", style="yellow")
        _say_what_is_left(console, plan, 0)
        plan.protocol.show(*shown, console)
        for line in closing:
            _say(console, line, style=None if line is closing[-1] else "yellow")
    repeats.keep(plan.output, sorted(inputs), captured.get(), rests_on)


def _say_what_is_left(console: Console, plan: Plan[Any, Any], left: int) -> None:
    unit = plan.protocol.unit
    _say(console, f"suite {plan.name}: {left} of {len(plan.units)} {unit}s to run, into {plan.output}")


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
