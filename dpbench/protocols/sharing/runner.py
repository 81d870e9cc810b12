"""A sharing suite from start to end: plan, run what is not finished, record each unit the moment it is done."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from dpbench.contract.plugin import Plugin
from dpbench.errors import DpbenchError, debug, is_interrupt, reason
from dpbench.machine.cache import default_cache
from dpbench.machine.devices import choose_device
from dpbench.machine.environment import describe_environment
from dpbench.machine.stages import Stages
from dpbench.machine.writing import Unwritable, sweep
from dpbench.plugins.configuring import attack_of, defense_of
from dpbench.protocols.sharing import refinement
from dpbench.protocols.sharing.benefit import Benefit
from dpbench.protocols.sharing.pipeline import SharedPipeline
from dpbench.protocols.sharing.plan import plan_sharing
from dpbench.protocols.sharing.records import SharingRecord, read_record, record_path, write_record
from dpbench.protocols.sharing.suite import SharingAttack, SharingSuite, load_sharing
from dpbench.protocols.sharing.units import OnShared, Training, Unit, setting_text
from dpbench.records.record_files import readable
from dpbench.running.kept_images import keep_images
from dpbench.running.watching import Nobody, Watcher, in_turn
from dpbench.suite import preflight as at_hand
from dpbench.suite.overrides import occurs, overrides
from dpbench.suite.suite import PluginEntry

UnitWatcher: TypeAlias = Watcher[Unit, SharingRecord]


@dataclass(frozen=True)
class SharingPlan:
    """A suite made concrete: its units in running order, the finished ones, where records go, and what to say of it."""

    suite: SharingSuite
    units: list[Unit]
    finished: dict[str, SharingRecord]
    output: Path
    remarks: tuple[str, ...] = ()


def make_sharing_plan(
    suite: str | SharingSuite,
    *,
    data: str | None = None,
    output: Path | str | None = None,
    only: str | None = None,
    seed: int | None = None,
    budget: str | None = None,
    weights: str | None = None,
    defenses: list[str] | None = None,
    attacks: list[str] | None = None,
) -> SharingPlan:
    """Resolve a suite to units and look up which are finished, by the recipe of now. Computes nothing.

    Args:
        suite: a built-in name, a path of a TOML file, or a `SharingSuite`.
        data: overrides the suite's data set.
        output: the run directory; by default `dpbench-runs/NAME`.
        only: keeps units in whose label this shell pattern occurs.
        seed: overrides the suite's seeds.
        budget: small, standard or large: overrides what the attacks may spend.
        weights: of the backbone: a file, auto, pretrained or fit.
        defenses: further ones, at their defaults.
        attacks: likewise.

    Raises:
        DpbenchError: anything in the suite that cannot be run.
    """
    chosen = load_sharing(suite) if isinstance(suite, str) else suite
    changes = overrides(chosen.dataset, data=data, seed=seed, budget=budget)
    if seed is not None:
        changes["leakage_seeds"] = None
    if weights is not None:
        changes["backbone"] = chosen.backbone.model_copy(update={"weights": weights})
    changes["defenses"] = [*chosen.defenses, *(PluginEntry(name=name) for name in defenses or [])]
    changes["attacks"] = [*chosen.attacks, *(SharingAttack(name=name) for name in attacks or [])]
    chosen = chosen.model_copy(update=changes)
    size = chosen.dataset.image_size
    fingerprint = at_hand.data_fingerprint(chosen.dataset, hint="" if data is not None else chosen.data)
    (entry,), of_weights = at_hand.in_order([chosen.backbone], chosen.dataset)
    chosen = chosen.model_copy(update={"backbone": entry})
    remarks = (*at_hand.left_out(chosen.dataset), *of_weights)
    units = plan_sharing(
        chosen,
        data_fingerprint=fingerprint,
        split_point=at_hand.split_names(chosen.backbone, size)[0],
        weights_fingerprint=at_hand.weights_fingerprint(chosen.backbone, size),
    )
    if only is not None:
        matching = [unit for unit in units if matches(unit, only)]
        if not matching:
            raise DpbenchError(
                f"--only {only!r} matches nothing in suite {chosen.name!r}; its parts look like "
                f"{units[0].label!r}; try `dpbench run {chosen.name} --dry-run`"
            )
        units = matching
    run_dir = Path(output) if output is not None else Path("dpbench-runs") / chosen.name
    stored = readable((record_path(run_dir, unit.id) for unit in units), read_record)
    planned = {unit.id: unit.asked for unit in units}
    finished = {
        record.id: record for record in stored if _is_finished(record) and planned.get(record.id) == record.unit.asked
    }
    at_hand.assert_plugins(plugin for unit in units if unit.id not in finished for plugin in _plugins(unit))
    return SharingPlan(chosen, units, finished, run_dir, remarks)


def refuse_shifted(shifted: str | None) -> None:
    """An error where the attacker's images are named: here they are a partner's own."""
    if shifted is not None:
        raise DpbenchError(
            f"--shifted {shifted}: in a suite of the protocol 'sharing' the attacker is a partner with images of its "
            "own; leave it out"
        )


def matches(unit: Unit, pattern: str) -> bool:
    """Whether a shell pattern picks a unit: it occurs in the label, or is the whole id."""
    return occurs(pattern, (unit.label, unit.id))


def _plugins(unit: Unit) -> list[Plugin]:
    if isinstance(unit, Training):
        return [defense_of(spec) for spec in unit.applied.values()]
    assert isinstance(unit, OnShared)
    return [defense_of(unit.defense), attack_of(unit.attack)]


def _is_finished(record: SharingRecord) -> bool:
    """By the recipe of now."""
    return record.status == "ok" and record.refinement_version in (None, refinement.VERSION)


def execute_sharing(
    plan: SharingPlan,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    audit: bool = False,
    watcher: UnitWatcher | None = None,
) -> list[SharingRecord]:
    """Run the units that are not finished; one that fails is a record too, and the others go on.

    Args:
        plan: what `make_sharing_plan` returned.
        device: auto, cpu, cuda or mps.
        batch_size: at most so many images in a network at once; None: from their size and the device's memory.
        audit: every plug-in runs in processes of its own, dpbench's own too; see `dpbench.border`.
        watcher: follows the run.

    Returns:
        One record per unit of the plan, in its order.

    Raises:
        DpbenchError: no such device, data that cannot be read, a full or unwritable output disk.
    """
    watcher = watcher or Nobody()
    chosen = choose_device(device)
    torch.backends.cudnn.deterministic = True
    sweep([plan.output, default_cache()])
    pipeline = SharedPipeline(chosen, default_cache(), batch_size, audit=audit)
    environment = describe_environment(chosen)
    return in_turn(plan.units, plan.finished, lambda unit: _run(unit, plan, pipeline, environment, watcher), watcher)


def _run(
    unit: Unit,
    plan: SharingPlan,
    pipeline: SharedPipeline,
    environment: dict[str, object],
    watcher: UnitWatcher,
) -> SharingRecord:
    world = pipeline.world
    world.enter(unit.world)
    world.start(world.public_cell())
    world.divided(watcher.progress)  # data that cannot be read stops the run: no unit could go on
    stages = Stages(pipeline.device)
    record = SharingRecord.model_validate(
        {
            "id": unit.id,
            "suite": plan.suite.name,
            "unit": unit,
            "words": unit.words_by(setting_text),
            "status": "failed",
            "environment": environment,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
    )
    try:
        measured = _measured(unit, plan, pipeline, stages, watcher.progress)
    except Unwritable:
        raise  # nothing else could be kept either
    except BaseException as error:  # a plug-in may call sys.exit
        if is_interrupt(error):
            raise
        debug(error)
        record.error = reason(error)
    else:
        record = record.model_copy(update={"status": "ok", **measured})
    record = record.model_copy(update={"seconds": stages.seconds})
    return write_record(plan.output, record)  # last: a unit with a record has its picture


def _measured(
    unit: Unit, plan: SharingPlan, pipeline: SharedPipeline, stages: Stages, progress: Callable[[str], None]
) -> dict[str, Any]:
    """The fields of the record that were measured."""
    if isinstance(unit, Training):
        trained = Benefit(pipeline).run(unit, stages, progress)
        _, _, weights = pipeline.world.backbone(pipeline.world.public_cell(), progress)
        return {"trained": trained, "backbone_weights": weights, "refinement_version": refinement.VERSION}
    assert isinstance(unit, OnShared)
    result = pipeline.run(unit.cell(), stages, progress)
    kept = keep_images(plan.output, unit.id, result, title=unit.label)
    converged = result.notes.get("converged")
    return {
        "floor": result.floor,
        "fidelity": result.fidelity,
        "missing_metrics": result.missing_metrics,
        "victims": result.victim_hashes,
        "recognition": result.recognition,
        "trained_on": result.trained_on,
        "converged": converged if isinstance(converged, bool) else None,
        "notes": result.notes,
        "kept": kept,
        "backbone_weights": result.backbone_weights,
    }
