"""A suite from start to end: plan, run what is not finished, record each unit the moment it is done."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dpbench.contract.plugin import Plugin
from dpbench.contract.spec import PluginSpec
from dpbench.errors import DpbenchError
from dpbench.executors.executor import Means
from dpbench.executors.known import Here, start_executor
from dpbench.executors.shares import share
from dpbench.executors.times import Times, Trace
from dpbench.machine.cache import default_cache
from dpbench.machine.devices import assert_compiler, choose_device, gpu_count
from dpbench.machine.environment import describe_environment
from dpbench.machine.writing import sweep
from dpbench.plugins.applicable import Place, assert_applicable
from dpbench.plugins.configuring import defense_of
from dpbench.records.collected import Records, RecordsById, SharedParts
from dpbench.records.progress import Progress
from dpbench.records.record_files import readable
from dpbench.running.changes import Exchanged, changes, said
from dpbench.running.driving import Driver, RunJob
from dpbench.running.options import Options
from dpbench.running.protocol import Plan, Protocol, R
from dpbench.running.unit import U
from dpbench.running.watching import Nobody, Watcher
from dpbench.suite import preflight
from dpbench.suite.overrides import changed, matches_any


def make_plan(
    protocol: Protocol[U, R],
    suite: Any,
    options: Options,
    *,
    progress: Callable[[str], None] = lambda text: None,
) -> Plan[U, R]:
    """Resolve a suite to units and look up which are finished. Computes nothing.

    Args:
        protocol: whose suite it is.
        suite: of the type `protocol.suite`.
        options: what is changed of it.
        progress: shows a short text.

    Raises:
        DpbenchError: anything in the suite that cannot be run.
    """
    suite = changed(
        suite, settings=options.settings, backbone=options.backbone, splits=options.splits, victims=options.victims
    )
    planned = protocol.plan(suite, options, progress)
    units, name = planned.units, planned.suite.name
    for pattern in options.patterns:
        if not any(matches_any(pattern, protocol.names_of(unit)) for unit in units):
            raise DpbenchError(
                f"--only {pattern!r} matches no {protocol.unit} of suite {name!r}; its {protocol.unit}s look like "
                f"{protocol.names_of(planned.units[0])[0]!r}; try `dpbench run {name} --dry-run`"
            )
    if options.patterns:
        units = [u for u in units if any(matches_any(one, protocol.names_of(u)) for one in options.patterns)]
    if options.shard is not None:
        if options.shard[1] > len(units):
            raise DpbenchError(
                f"--shard {options.shard[0]}/{options.shard[1]}: suite {name!r} has {len(units)} {protocol.unit}s; "
                "give each share at least one"
            )
        units = share(units, [protocol.ties(unit).near for unit in units], options.shard)
    output = Path(options.output) if options.output is not None else Path("dpbench-runs") / name
    wanted = {unit.id: unit for unit in units}
    finished: Records[R, str] = protocol.store.of_run(output)
    other_files: dict[str, str] = {}
    moved = Exchanged(protocol, default_cache() / "datasets")
    for record in readable((protocol.store.path(output, unit.id) for unit in units), protocol.store.read):
        unit = wanted.get(record.id) if record.status == "ok" else None
        if unit is None or not protocol.is_finished(record, unit, audit=options.audit):
            continue
        if name := moved.of(unit, record):
            other_files[record.id] = name
        else:
            finished.add(record, record.id)
    there = {head.id for head in finished.heads}
    plan = Plan(
        planned.suite,
        units,
        tuple(dict.fromkeys(planned.remarks)),
        protocol=protocol,
        finished=RecordsById(finished),
        output=output,
        changed=(
            *_changed(protocol, [unit for unit in units if unit.id not in there], output),
            *said(Counter(other_files.values()), protocol.unit),
        ),
        everything={unit.id: unit for unit in planned.units},
    )
    preflight.assert_plugins(_plugins(protocol, plan.left))
    assert_applicable(_applied(protocol, plan.left))
    return plan


def _applied(protocol: Protocol[U, R], units: list[U]) -> Iterator[tuple[PluginSpec, Place]]:
    """The defenses of the units, each with where it is to work."""
    for unit in units:
        place = protocol.place(unit)
        if place is not None:
            yield from ((spec, place) for make, spec in protocol.plugins(unit) if make is defense_of)


def _plugins(protocol: Protocol[U, R], units: list[U]) -> Iterator[tuple[Plugin, int | None]]:
    """What the units name, configured, each once, and the size of their images: those of one plan share both."""
    seen: set[int] = set()
    for unit in units:
        data = protocol.data(unit).get("dataset")
        size = None if data is None else data[0].image_size
        for make, spec in protocol.plugins(unit):
            if id(spec) not in seen:
                seen.add(id(spec))
                yield make(spec), size


def _changed(protocol: Protocol[U, R], left: list[U], output: Path) -> tuple[str, ...]:
    if not left or not protocol.store.holds(output):
        return ()
    shared = SharedParts()
    stored = readable(protocol.store.files(output), protocol.store.read)
    measured = [(one.created, shared.unit(one.unit_measured)) for one in stored if one.status == "ok"]
    return tuple(changes(protocol, left, (unit for _, unit in sorted(measured, key=lambda pair: pair[0]))))


def execute(
    plan: Plan[U, R],
    *,
    device: str = "auto",
    batch_size: int | None = None,
    audit: bool = False,
    watcher: Watcher[U, R] | None = None,
    means: Means | None = None,
    trace: Trace | None = None,
    consists_of: Iterable[str] | None = None,
) -> Sequence[R]:
    """Run the units that are not finished; one that fails is a record too, and the others go on.

    Args:
        plan: what `make_plan` returned.
        device: auto, cpu, cuda or mps.
        batch_size: at most so many images in a network at once, from 1; None: `dpbench.machine.memory.auto_batch_size`.
        audit: every plug-in runs in processes of its own, dpbench's own too; see `dpbench.border`.
        watcher: follows the run.
        means: workers, threads, a time limit.
        trace: follows where the time goes.
        consists_of: ids of the units of the whole run; None: those of the plan, which is no share of it.

    Returns:
        One record per unit of the plan, in its order; very many are read from their files, see
        `dpbench.records.collected`.

    Raises:
        DpbenchError: no such device, data that cannot be read, a full or unwritable output disk.
    """
    watcher = watcher or Nobody()
    chosen = choose_device(device)
    means = _in_full(means or Means(), chosen, plan)
    if means.compiled:
        assert_compiler(chosen)
    sweep([plan.output, default_cache()])
    Progress.begin(plan.output, consists_of or [unit.id for unit in plan.units])
    records: Records[R, str] = plan.protocol.store.of_run(plan.output)
    for unit in plan.units:
        if unit.id in plan.finished:
            found = plan.finished[unit.id]
            watcher.finished(unit, "cached", found)
            records.add(found, unit.id)
    if plan.left:
        with _threads(means.threads) as threads:
            environment = {**describe_environment(chosen), "threads": threads}
            environment |= {"compiled": True} if means.compiled else {}
            job = RunJob(plan, device, default_cache(), batch_size, audit, means.threads, os.getcwd(), means.compiled)
            executor = start_executor(job.sent(), means)
            try:
                known = times_of(plan).of_one() if executor.places > 1 else None
                driver = Driver(job, executor, environment, watcher, trace, known)
                for record in driver.run():
                    records.add(record, record.id)
            finally:
                executor.close()
        times_of(plan).add(driver.spent)
    order = {unit.id: number for number, unit in enumerate(plan.units)}
    return records.chosen(lambda heads: sorted(heads, key=lambda head: order[head.id]))


def times_of(plan: Plan[U, R]) -> Times:
    """How long units of the suite took in earlier runs on this machine."""
    return Times(default_cache(), f"{plan.protocol.name} {plan.name}")


def _in_full(means: Means, device: torch.device, plan: Plan[U, R]) -> Means:
    """With what the user left open: a worker for each of several GPUs, the suite's time limit, threads."""
    if means.timeout is None:
        means = replace(means, timeout=getattr(plan.suite, "timeout", None))
    gpus = gpu_count() if device.type == "cuda" else 0
    if means.workers is None and not means.executor and gpus > 1:
        cores = max(1, torch.get_num_threads() // gpus)
        return replace(means, workers=gpus, threads=means.threads or cores)
    if means.threads is None and (means.workers is not None or means.executor not in ("", Here.name)):
        return replace(means, threads=1)  # whatever the number of workers, so that their figures are the same
    return means


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[int]:
    """Compute with so many threads in here, where a number is given; gives how many they are."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
