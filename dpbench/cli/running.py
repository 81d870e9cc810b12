"""`dpbench run`: the plan, the live display, and what is said and drawn at the end, for suites of every protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from dpbench.machine.writing import write_atomically
from dpbench.protocols.known import loaded
from dpbench.records.pictures import gone, lost_and_gone
from dpbench.records.trackers import tracker
from dpbench.reporting.display import Display
from dpbench.reporting.plot_style import draw_or_say
from dpbench.running.protocol import Options, Plan
from dpbench.running.runner import execute, make_plan
from dpbench.running.watching import Several
from dpbench.text.shown_text import ERROR_LIMIT, clean


def run_suite(
    suite: str,
    options: Options,
    *,
    device: str,
    batch_size: int | None,
    dry_run: bool,
    console: Console,
    trackers: Sequence[str] = (),
) -> int:
    """Run a suite, or what of it is not finished, and show its board.

    Args:
        suite: a built-in name or a path of a TOML file.
        options: what is changed of it.
        device: auto, cpu, cuda or mps.
        batch_size: at most so many images in a network at once; None: from their size and the device's memory.
        dry_run: print the plan and stop.
        console: takes display, table and lines.
        trackers: further programs that follow the run, see `dpbench.records.trackers`.

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
        _print_plan(plan, console)
        return 0
    left = len(plan.left)
    _say(console, f"suite {plan.name}: {left} of {len(plan.units)} {protocol.unit}s to run, into {plan.output}")
    for line in plan.changed:
        _say(console, line)
    followers = [tracker(name, plan.output) for name in trackers]
    with Display(console, plan) as display:
        watcher = Several(display, *followers)
        records = execute(plan, device=device, batch_size=batch_size, audit=options.audit, watcher=watcher)
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
    for line in protocol.doubts(records):
        _say(console, line, style="yellow")
    drawings = protocol.drawings(stored, board, plan.output, pictures=len(gone(plan.output, attacked)) < len(attacked))
    lacking = any(not (plan.output / name).is_file() for name in drawings)
    written = ["board.csv", *(draw_or_say(drawings, console) if left or lacking else [])]
    for line in removed:
        _say(console, line, style="yellow")
    pictures = "" if removed else f", and a picture per {protocol.picture_of} in pictures/"
    _say(console, f"{plan.output}: {', '.join(written)}{pictures}")
    return 1 if failed else 0


def _say(console: Console, line: str, *, style: str | None = None) -> None:
    console.print(clean(line, ERROR_LIMIT), style=style, markup=False, highlight=False, soft_wrap=True)


def _print_plan(plan: Plan[Any, Any], console: Console) -> None:
    for unit in plan.units:
        state = "finished" if unit.id in plan.finished else "to run"
        *labels, name = plan.protocol.names_of(unit)
        _say(console, f"{state:8}  {clean(labels[-1] if labels else name)}")
    _say(console, f"{len(plan.units)} {plan.protocol.unit}s, {len(plan.left)} to run, into {plan.output}")
    for line in plan.changed:
        _say(console, line)
