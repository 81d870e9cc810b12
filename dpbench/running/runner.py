"""A suite from start to end: plan, run what is not finished, record each unit the moment it is done."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpbench.errors import DpbenchError, debug, is_interrupt, reason, traced
from dpbench.machine.cache import default_cache
from dpbench.machine.devices import choose_device, compute_exactly
from dpbench.machine.environment import describe_environment
from dpbench.machine.stages import Stages
from dpbench.machine.writing import Unwritable, sweep
from dpbench.records.record_files import readable
from dpbench.running.changes import changes, exchanged, said
from dpbench.running.protocol import Lab, Options, Plan, Protocol, R, U
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
    output = Path(options.output) if options.output is not None else Path("dpbench-runs") / name
    wanted = {unit.id: unit for unit in units}
    finished: dict[str, R] = {
        record.id: record
        for record in readable((protocol.store.path(output, unit.id) for unit in units), protocol.store.read)
        if record.status == "ok"
        and record.id in wanted
        and protocol.is_finished(record, wanted[record.id], audit=options.audit)
    }
    other_files = exchanged(protocol, wanted, finished, default_cache() / "datasets")
    finished = {name: record for name, record in finished.items() if name not in other_files}
    plan = Plan(
        planned.suite,
        units,
        tuple(dict.fromkeys(planned.remarks)),
        protocol=protocol,
        finished=finished,
        output=output,
        changed=(
            *_changed(protocol, [unit for unit in units if unit.id not in finished], output),
            *said(Counter(other_files.values()), protocol.unit),
        ),
        everything={unit.id: unit for unit in planned.units},
    )
    preflight.assert_plugins(make(spec) for unit in plan.left for make, spec in protocol.plugins(unit))
    return plan


def _changed(protocol: Protocol[U, R], left: list[U], output: Path) -> tuple[str, ...]:
    if not left or not protocol.store.holds(output):
        return ()
    stored = sorted(readable(protocol.store.files(output), protocol.store.read), key=lambda record: record.created)
    measured = (record.unit_measured for record in stored if record.status == "ok")
    return tuple(changes(protocol, left, measured))


def execute(
    plan: Plan[U, R],
    *,
    device: str = "auto",
    batch_size: int | None = None,
    audit: bool = False,
    watcher: Watcher[U, R] | None = None,
) -> list[R]:
    """Run the units that are not finished; one that fails is a record too, and the others go on.

    Args:
        plan: what `make_plan` returned.
        device: auto, cpu, cuda or mps.
        batch_size: at most so many images in a network at once, from 1; None: `dpbench.machine.memory.auto_batch_size`.
        audit: every plug-in runs in processes of its own, dpbench's own too; see `dpbench.border`.
        watcher: follows the run.

    Returns:
        One record per unit of the plan, in its order.

    Raises:
        DpbenchError: no such device, data that cannot be read, a full or unwritable output disk.
    """
    watcher = watcher or Nobody()
    chosen = choose_device(device)
    compute_exactly()
    sweep([plan.output, default_cache()])
    lab = plan.protocol.lab(chosen, default_cache(), batch_size, audit=audit)
    environment = describe_environment(chosen)
    records: list[R] = []
    for unit in plan.units:
        record = plan.finished.get(unit.id)
        if record is None:
            watcher.started(unit)
            record = _run(unit, plan, lab, environment, watcher)
            watcher.finished(unit, record.status, record)
        else:
            watcher.finished(unit, "cached", record)
        records.append(record)
    return records


def _run(unit: U, plan: Plan[U, R], lab: Lab[U], environment: dict[str, object], watcher: Watcher[U, R]) -> R:
    lab.enter(unit, watcher.progress)
    stages = Stages(lab.device)
    kind = plan.protocol.store.kind
    record: R = kind(
        **{kind.UNIT: unit},
        id=unit.id,
        suite=plan.name,
        status="failed",
        environment=environment,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **lab.describe(unit, plan),
    )
    try:
        measured = lab.measure(unit, plan, stages, watcher.progress)
    except Unwritable:
        raise  # nothing else could be kept either
    except BaseException as error:  # a plug-in may call sys.exit
        if is_interrupt(error):
            raise
        debug(error)
        measured = {"error": reason(error), "notes": {"traceback": traced(error)}}
    else:
        measured = {"status": "ok", **measured}
    # not validated here: what cannot be is left out, with the reason, when it is stored
    record = record.model_copy(update={**measured, **lab.spent(stages)})
    stored: R = plan.protocol.store.write(plan.output, record)  # last: a unit with a record has its pictures
    return stored
