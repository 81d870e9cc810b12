"""A suite from start to end: plan, run what is not finished, record each cell the moment it is done."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import torch

from dpbench.data import datasets
from dpbench.errors import DpbenchError, debug, is_interrupt, reason
from dpbench.machine.cache import default_cache
from dpbench.machine.devices import choose_device
from dpbench.machine.environment import describe_environment
from dpbench.machine.stages import Stages
from dpbench.machine.writing import Unwritable, sweep
from dpbench.plugins.configuring import attack_of, defense_of
from dpbench.records.record import APART, Memory, Record
from dpbench.records.record_files import readable
from dpbench.records.store import read_record, record_path, write_record
from dpbench.running.changes import changes
from dpbench.running.kept_images import keep_images
from dpbench.running.pipeline import Pipeline
from dpbench.running.watching import Nobody, Watcher, in_turn
from dpbench.suite import preflight as at_hand
from dpbench.suite.cell import CellSpec
from dpbench.suite.grid import plan
from dpbench.suite.overrides import occurs, overrides
from dpbench.suite.suite import Suite, load_suite, with_weights
from dpbench.suite.words import label, words_for

CellWatcher: TypeAlias = Watcher[CellSpec, Record]


@dataclass(frozen=True)
class Plan:
    """A suite made concrete: its cells, where records go, and which are there already.

    Attributes:
        suite: with data, seed and plug-ins as they were overridden.
        cells: in running order.
        finished: cell id -> its record, for those that are there and ok.
        output: the run directory.
        changed: in words, why cells that were finished are not: see `dpbench.running.changes`.
        remarks: what was left out of the data, or read in one of several ways; a line each.
    """

    suite: Suite
    cells: list[CellSpec]
    finished: dict[str, Record]
    output: Path
    changed: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    combined: dict[str, CellSpec] = field(default_factory=dict)


def make_plan(
    suite: str | Suite,
    *,
    data: str | None = None,
    output: Path | str | None = None,
    only: str | None = None,
    seed: int | None = None,
    shifted: str | None = None,
    budget: str | None = None,
    weights: str | None = None,
    audit: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Resolve a suite to cells and look up which are finished. Computes nothing.

    Args:
        suite: a built-in name, a path of a TOML file, or a `Suite`.
        data: overrides the suite's data set.
        output: the run directory; by default `dpbench-runs/NAME`.
        only: keeps cells that this shell pattern picks, see `occurs`.
        seed: overrides the suite's seeds.
        shifted: overrides the data set of the shifted auxiliary images.
        budget: small, standard or large: overrides what the attacks may spend.
        weights: overrides those of the suite's only backbone: a file, auto, pretrained or fit.
        audit: only cells that were measured behind the border count as finished.
        progress: shows a short text.

    Raises:
        DpbenchError: anything in the suite that cannot be run.
    """
    chosen = load_suite(suite) if isinstance(suite, str) else suite
    changes = overrides(chosen.dataset, data=data, seed=seed, budget=budget)
    if shifted is not None:
        if chosen.shifted is None:
            raise DpbenchError(f"--shifted {shifted}: suite {chosen.name!r} has no table [shifted] to override")
        changes["shifted"] = chosen.shifted.model_copy(update={"name": shifted})
    chosen = chosen.model_copy(update=changes)
    if weights is not None:
        chosen = with_weights(chosen, weights)
    progress("looking at the data")
    size = chosen.dataset.image_size
    fingerprint = at_hand.data_fingerprint(chosen.dataset, hint="" if data is not None else chosen.data)
    progress("looking at the backbones")
    entries, of_weights = at_hand.in_order(chosen.backbones, chosen.dataset)
    chosen = chosen.model_copy(update={"backbones": entries})
    remarks = [*at_hand.left_out(chosen.dataset), *of_weights]
    split_names = [at_hand.split_names(entry, size) for entry in chosen.backbones]
    fingerprints = {entry.weights: at_hand.weights_fingerprint(entry, size) for entry in chosen.backbones}
    shifted_fingerprint = ""
    if chosen.shifted is not None and chosen.grants_shifted:
        progress("looking at the shifted data")
        shifted_fingerprint = datasets.fingerprint(chosen.shifted.dataset(size))
        remarks += at_hand.left_out(chosen.shifted.dataset(size))
    cells = plan(
        chosen,
        data_fingerprint=fingerprint,
        split_names=split_names,
        shifted_fingerprint=shifted_fingerprint,
        weights_fingerprints=fingerprints,
    )
    everything = {cell.id: cell for cell in cells}
    if only is not None:
        matching = [cell for cell in cells if matches(cell, only)]
        if not matching:
            raise DpbenchError(
                f"--only {only!r} matches no cell of suite {chosen.name!r}; its cells look like "
                f"{label(cells[0])!r}; try `dpbench run {chosen.name} --dry-run`"
            )
        cells = matching
    run_dir = Path(output) if output is not None else Path("dpbench-runs") / chosen.name
    stored = readable((record_path(run_dir, cell.id) for cell in cells), read_record)
    planned = {cell.id for cell in cells}
    finished = {
        record.id: record
        for record in stored
        if record.status == "ok"
        and record.id in planned
        and record.cell.id == record.id
        and not (audit and set(record.apart) != set(APART))
    }
    left = [cell for cell in cells if cell.id not in finished]
    at_hand.assert_plugins(plugin for cell in left for plugin in (attack_of(cell.attack), defense_of(cell.defense)))
    return Plan(
        chosen,
        cells,
        finished,
        run_dir,
        changed=_changed(left, run_dir) if left else (),
        remarks=tuple(dict.fromkeys(remarks)),
        combined={name: everything[name] for cell in cells for name in cell.combined},
    )


def _changed(left: list[CellSpec], run_dir: Path) -> tuple[str, ...]:
    stored = sorted(readable((run_dir / "records").glob("[!.]*.json"), read_record), key=lambda record: record.created)
    return tuple(changes(left, (record.cell for record in stored if record.status == "ok")))


def matches(cell: CellSpec, pattern: str) -> bool:
    """Whether a shell pattern picks a cell, see `occurs`: `dpm`, `gaussian*rmle`, `std=[12].0`, or its whole id."""
    return occurs(pattern, names_of(cell))


def names_of(cell: CellSpec) -> tuple[str, ...]:
    """What a pattern may pick a cell by: the label, the label with all parameters, the id."""
    words = words_for(cell)
    return words.label, words.full, cell.id


def execute(
    plan_: Plan,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    audit: bool = False,
    watcher: CellWatcher | None = None,
) -> list[Record]:
    """Run the cells that are not finished; one that fails is a record too, and the others go on.

    Args:
        plan_: what `make_plan` returned.
        device: auto, cpu, cuda or mps.
        batch_size: at most so many images in a network at once, from 1; None: `dpbench.machine.memory.auto_batch_size`.
        audit: every plug-in runs in processes of its own, dpbench's own too; see `dpbench.border`.
        watcher: follows the run.

    Returns:
        One record per cell of the plan, in its order.

    Raises:
        DpbenchError: no such device, data that cannot be read, a full or unwritable output disk.
    """
    watcher = watcher or Nobody()
    chosen = choose_device(device)
    torch.backends.cudnn.deterministic = True
    sweep([plan_.output, default_cache()])
    pipeline = Pipeline(chosen, default_cache(), batch_size, audit=audit)
    environment = describe_environment(chosen)
    return in_turn(
        plan_.cells, plan_.finished, lambda cell: _run_cell(cell, plan_, pipeline, environment, watcher), watcher
    )


def _run_cell(
    cell: CellSpec, plan_: Plan, pipeline: Pipeline, environment: dict[str, object], watcher: CellWatcher
) -> Record:
    pipeline.prepared.parts(cell, watcher.progress)  # data that cannot be read stops the run: no cell could go on
    pipeline.prepared.auxiliary(cell, watcher.progress)
    stages = Stages(pipeline.device)
    record = Record(
        id=cell.id,
        suite=plan_.suite.name,
        headline=plan_.suite.headline,
        cell=cell,
        words=words_for(cell),
        apart=pipeline.apart(cell),
        status="failed",
        environment=environment,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=stages.seconds,
        peak_memory_mb=stages.peak_memory_mb,
    )
    try:
        result = pipeline.run(cell, stages, watcher.progress, combined=plan_.combined)
    except Unwritable:
        raise  # nothing else could be kept either
    except BaseException as error:  # a plug-in may call sys.exit
        if is_interrupt(error):
            raise
        debug(error)
        record.error = reason(error)
    else:
        record = record.model_copy(
            update={
                "status": "ok",
                "floor": result.floor,
                "utility": result.utility,
                "fidelity": result.fidelity,
                "missing_metrics": result.missing_metrics,
                "victims": result.victim_hashes,
                "backbone_weights": result.backbone_weights,
                "released": result.released,
                "release_bits": result.release_bits,
                "recognition": result.recognition,
                "guarantees": result.guarantees,
                "trained_on": result.trained_on,
                "converged": _said(result.notes.get("converged")),
                "notes": result.notes,
                "kept": keep_images(plan_.output, cell.id, result, title=label(cell)),
            }
        )
    record = record.model_copy(
        update={
            "memory": Memory(
                batch_size=pipeline.batches.smallest, halved=pipeline.batches.halved, peak_bytes=stages.peak_bytes
            ),
            "seconds": stages.seconds,
            "peak_memory_mb": stages.peak_memory_mb,
        }
    )
    return write_record(plan_.output, record)  # last: a cell with a record has its pictures


def _said(value: object) -> bool | None:
    return value if isinstance(value, bool) else None
