"""Sharing as a protocol: its units, how one is measured, and what is shown of the records."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from rich.console import Console

from dpbench.board.columns import BoardKind, Row, assert_free
from dpbench.cells.kept_images import keep_images
from dpbench.contract.plugin import Plugin
from dpbench.contract.spec import PluginSpec, Spec
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError
from dpbench.executors.graph import Need, Ties
from dpbench.executors.stages import Stages
from dpbench.plugins.applicable import Place
from dpbench.plugins.configuring import attack_of, configured_as, defense_of
from dpbench.plugins.measuring import facts_of
from dpbench.protocols.doubts import clamped, missing_metrics, not_converged
from dpbench.protocols.sharing import refinement
from dpbench.protocols.sharing.benefit import Benefit
from dpbench.protocols.sharing.pipeline import SharedPipeline
from dpbench.protocols.sharing.plan import plan_sharing, shared_in
from dpbench.protocols.sharing.records import SHARED, SharingRecord, latest
from dpbench.protocols.sharing.reporting.board import SHARING_YARDSTICK, build_sharing_board, members_of
from dpbench.protocols.sharing.reporting.columns import COLUMNS, SHARING_BOARDS
from dpbench.protocols.sharing.reporting.paper import write_sharing_paper
from dpbench.protocols.sharing.reporting.plots import write_benefit, write_transfer
from dpbench.protocols.sharing.reporting.report import report_of_sharing
from dpbench.protocols.sharing.reporting.table import print_sharing, print_transfer, write_csv, write_sharing_board
from dpbench.protocols.sharing.reporting.transfer import build_transfer
from dpbench.protocols.sharing.suite import SharingAttack, SharingSuite
from dpbench.protocols.sharing.units import Attacked, OnShared, Training, Transferred, Unit, WorldSpec
from dpbench.protocols.sharing.world import World
from dpbench.records.record import APART
from dpbench.records.store import Store
from dpbench.report.content import Report
from dpbench.report.page import write_page
from dpbench.running.options import Options
from dpbench.running.protocol import Lab, Plan, Planned, Protocol
from dpbench.running.unit import Progress, Shareable
from dpbench.running.yardstick import Yardstick
from dpbench.suite import preflight
from dpbench.suite.overrides import overrides
from dpbench.suite.suite import PluginEntry, entries
from dpbench.suite.words import ssim_text
from dpbench.text.hashing import content_hash


class Sharing(Protocol[Unit, SharingRecord]):
    """Features for a partner who trains on them: what the partner gains, and what leaks to it."""

    name: ClassVar[str] = "sharing"
    suite: ClassVar[type[Spec]] = SharingSuite
    store: ClassVar[Store[Any]] = SHARED
    boards: ClassVar[BoardKind] = SHARING_BOARDS
    yardstick: ClassVar[Yardstick | None] = SHARING_YARDSTICK
    plots: ClassVar[tuple[str, ...]] = ("benefit", "transfer")
    tables: ClassVar[tuple[str, ...]] = ("transfer",)

    def plan(self, suite: SharingSuite, options: Options, progress: Progress) -> Planned[Unit]:
        """See `Protocol`."""
        if options.shifted is not None:
            raise DpbenchError(
                f"--shifted {options.shifted}: in a suite of the protocol {self.name!r} the attacker is a partner with "
                "images of its own; leave it out"
            )
        changes = overrides(suite.dataset, data=options.data, seed=options.seed, budget=options.budget)
        if options.seed is not None:
            changes["leakage_seeds"] = None
        if options.weights is not None:
            changes["backbone"] = suite.backbone.model_copy(update={"weights": options.weights})
        changes["defenses"] = [*suite.defenses, *entries(PluginEntry, options.defenses, "--defense")]
        changes["attacks"] = [*suite.attacks, *entries(SharingAttack, options.attacks, "--attack")]
        suite = suite.model_copy(update=changes)
        progress("looking at the data")
        fingerprint = preflight.data_fingerprint(suite.dataset, hint="" if options.data is not None else suite.data)
        progress("looking at the backbone")
        (entry,), of_weights = preflight.with_class_order([suite.backbone], suite.dataset)
        suite = suite.model_copy(update={"backbone": entry})
        units = plan_sharing(
            suite,
            data_fingerprint=fingerprint,
            split_point=preflight.split_names(entry, suite.dataset.image_size)[0],
            weights_fingerprint=preflight.weights_fingerprint(entry, suite.dataset.image_size),
        )
        attack = next((unit for unit in units if isinstance(unit, OnShared)), None)
        assert_free(facts_of(attack.metrics if attack is not None else ()), COLUMNS)
        return Planned(suite, units, (*preflight.left_out(suite.dataset), *of_weights))

    def names_of(self, unit: Unit) -> tuple[str, ...]:
        """The label, the label with the parameters of the attack, the id."""
        return (words := unit.named).label, words.full, unit.id

    def plugins(self, unit: Unit) -> list[tuple[Callable[[PluginSpec], Plugin], PluginSpec]]:
        """See `Protocol`."""
        if isinstance(unit, Training):
            return [(defense_of, spec) for spec in unit.applied.values()]
        assert isinstance(unit, OnShared)
        metrics = [(functools.partial(configured_as, sort="metric"), metric) for metric in unit.metrics]
        return [(defense_of, unit.defense), (attack_of, unit.attack), *metrics]

    def place(self, unit: Unit) -> Place:
        """See `Protocol`."""
        return Place(unit.world.backbone, unit.world.split_point, unit.world.dataset.image_size)

    def data(self, unit: Unit) -> dict[str, tuple[DatasetSpec, str]]:
        """See `Protocol`."""
        return {"dataset": (unit.world.dataset, unit.world.data_fingerprint)}

    def inputs(self, unit: Unit) -> list[Path] | None:
        """See `Protocol`."""
        plugins = [spec for _, spec in self.plugins(unit)]
        return preflight.inputs(plugins, [unit.world.dataset], unit.world.backbone)

    def moved(self, unit: Unit, places: Mapping[str, DatasetSpec]) -> Unit:
        """See `Protocol`."""
        return unit.model_copy(update={"world": unit.world.model_copy(update=dict(places))})

    def without_data(self, unit: Unit) -> Unit:
        """See `Protocol`."""
        return unit.model_copy(update={"world": unit.world.model_copy(update={"data_fingerprint": ""})})

    def ties(self, unit: Unit) -> Ties:
        """See `Protocol`; each entity's defense is fitted by the first unit that needs it."""
        world = unit.world
        public = world.identity
        images = content_hash(["images", public])
        near = content_hash([public, unit.sender, unit.defense.identity]) if isinstance(unit, OnShared) else ""
        needs = (
            Need("images", images),
            Need("backbone", content_hash(["backbone", public]), (images,)),
            Need("judge", content_hash(["judge", public]), (images,)),
        )
        applied = [spec.identity for spec in unit.applied.values()] if isinstance(unit, Training) else []
        return Ties(needs, near=near, alone=near or content_hash([public, applied]))

    def kind_of(self, unit: Unit) -> str:
        """The name of its attack, or `Training`: such units take about as long as each other."""
        return unit.attack.name if isinstance(unit, OnShared) else type(unit).__name__

    def is_finished(self, record: SharingRecord, unit: Unit, *, audit: bool) -> bool:
        """By the recipe of now."""
        same_recipe = record.refinement_version in (None, refinement.VERSION)
        apart = APART if isinstance(unit, OnShared) else ("defense",)
        as_asked = not audit or set(record.apart) == set(apart)
        return same_recipe and as_asked and record.unit.version_free_id == unit.version_free_id

    def lab(self, device: torch.device, cache: Path, batch_size: int | None, *, audit: bool) -> SharingLab:
        """See `Protocol`."""
        return SharingLab(SharedPipeline(device, cache, batch_size, audit=audit))

    def newest(self, records: Iterable[SharingRecord]) -> list[SharingRecord]:
        """See `latest`."""
        return latest(records)

    def board(self, records: Sequence[SharingRecord], *, claimed: Sequence[SharingRecord] = ()) -> pd.DataFrame:
        """One row per condition and defense setting."""
        if claimed:
            raise DpbenchError("--claimed: boards of sharing runs hold measured rows alone; leave it out")
        return build_sharing_board(records)

    def members(self, records: Sequence[SharingRecord]) -> dict[Row, tuple[str, ...]]:
        """Of a condition its trainings, and the attacks on what was shared under it."""
        return members_of(records)

    def write(self, records: Sequence[SharingRecord], board: pd.DataFrame, output: Path, plot: str) -> int:
        """See `write_sharing_board`; a page where it ends in .html."""
        if output.suffix.lower() == ".html" and plot != "transfer":
            write_page(self.page(records, board, None, title="leaderboard"), output)
            return len(board)
        if output.suffix.lower() == ".tex" and plot != "transfer":
            return self.write_paper(board, output)
        return write_sharing_board(list(records), board, output, plot)

    def write_paper(
        self, board: pd.DataFrame, output: Path, rows: str | None = None, columns: Sequence[str] | None = None
    ) -> int:
        """See `write_sharing_paper`."""
        return write_sharing_paper(board, output, rows=rows, columns=columns)

    def show(self, records: Sequence[SharingRecord], board: pd.DataFrame, console: Console) -> None:
        """The board and the transfer matrices."""
        print_sharing(board, console)
        print_transfer(build_transfer(records), console)

    def drawings(
        self, records: Sequence[SharingRecord], board: pd.DataFrame, folder: Path, *, pictures: bool
    ) -> dict[str, Callable[[], object]]:
        """See `Protocol`."""
        found: dict[str, Callable[[], object]] = {}
        matrix = build_transfer(records)
        if (board["gain"].notna() & board["ssim"].notna()).any():
            found["benefit.png"] = lambda: write_benefit(board, folder / "benefit.png")
        if matrix["ssim"].notna().any():
            found["transfer.csv"] = lambda: write_csv(matrix, folder / "transfer.csv")
            found["transfer.png"] = lambda: write_transfer(matrix, folder / "transfer.png")
        return found

    def page(self, records: Sequence[SharingRecord], board: pd.DataFrame, folder: Path | None, *, title: str) -> Report:
        """See `report_of_sharing`."""
        return report_of_sharing(records, board, folder, title=title)

    def doubts(self, records: Sequence[SharingRecord]) -> list[str]:
        """See `Protocol`."""
        adaptive = [r for r in records if getattr(r.unit, "knowledge", "") in ("query", "weights")]
        own = {facts.name for record in records for facts in record.metrics}
        return not_converged(adaptive) + clamped(records) + missing_metrics(records, {"lpips", *own})

    def progress_of(self, record: SharingRecord) -> str:
        """See `Protocol`."""
        if record.trained is not None:
            return f"top-1 {sum(record.trained.correct) / len(record.trained.correct):.1%}"
        return ssim_text(record.fidelity, decimals=3)

    def caption(self, record: SharingRecord) -> tuple[str, str]:
        """See `Protocol`."""
        unit = record.unit
        knows = f"prepared on fit {unit.fits}" if isinstance(unit, Transferred) else ""
        knows = unit.knowledge if isinstance(unit, Attacked) else knows
        return record.named.defense, f"{record.named.attack}, {knows}: {record.recovered}"

    def shareable(
        self, suite: SharingSuite, options: Options, progress: Progress, *, undefended: bool
    ) -> list[Shareable]:
        """One for each entity and defense that it shares under, or the public network; of each seed."""
        found: dict[str, Shareable] = {}
        for unit in self.plan(suite, options, progress).units:
            for name, cell in shared_in(unit, undefended=undefended).items():
                found.setdefault(name, Shareable(name, cell, functools.partial(_entered, unit.world)))
        return list(found.values())


def _entered(spec: WorldSpec, device: torch.device, cache: Path) -> World:
    world = World(device, cache)
    world.enter(spec)
    return world


class SharingLab(Lab[Unit]):
    """Measures trainings, attacks and transfers.

    Args:
        pipeline: on the device where every tensor lives.
    """

    def __init__(self, pipeline: SharedPipeline) -> None:
        self.pipeline = pipeline
        self.device = pipeline.device
        self._fetched = False

    def enter(self, unit: Unit, progress: Progress) -> None:
        """See `Lab`."""
        world = self.pipeline.world
        world.enter(unit.world)
        world.start(world.public_cell())
        world.divided(progress)

    def fetch(self, unit: Unit, progress: Progress) -> None:
        """See `Lab`; a suite has one backbone."""
        self.enter(unit, progress)
        if not self._fetched:
            progress(f"weights of {unit.world.backbone.name}")
            preflight.read_weights(unit.world.backbone, unit.world.dataset.image_size)
            self._fetched = True

    def describe(self, unit: Unit, plan: Plan[Unit, Any]) -> dict[str, Any]:
        """See `Lab`."""
        return {"words": unit.named, "apart": self.pipeline.plugins_apart(unit)}

    def make(self, unit: Unit, name: str, progress: Progress) -> None:
        """See `Lab`."""
        world = self.pipeline.world
        make = {"backbone": world.backbone, "judge": world.judge}.get(name)
        if make is not None:
            make(world.public_cell(), progress)

    def measure(self, unit: Unit, plan: Plan[Unit, Any], stages: Stages, progress: Progress) -> dict[str, Any]:
        """See `Lab`."""
        if isinstance(unit, Training):
            world = self.pipeline.world
            cell = world.public_cell()
            return {
                "trained": Benefit(self.pipeline).run(unit, stages, progress),
                "data_files": world.data_files(cell),
                "backbone_weights": world.backbone(cell, progress)[2],
                "refinement_version": refinement.VERSION,
            }
        assert isinstance(unit, OnShared)
        result = self.pipeline.run(unit.cell(), stages, progress)
        return {
            **result.envelope,
            "kept": keep_images(plan.output, unit.id, result, title=unit.label, frames=result.frames),
        }
