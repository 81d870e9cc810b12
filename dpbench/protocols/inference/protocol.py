"""Split inference: do the features that are sent to a model leak the image? A grid of cells, one attack each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from rich.console import Console

from dpbench.board.columns import BoardKind, Row, assert_free
from dpbench.board.files import CELL_BOARDS, board_csv, write_board
from dpbench.board.leaderboard import build_board, build_rows, per_image
from dpbench.board.rows import BoardRow
from dpbench.cells.pipeline import Pipeline
from dpbench.cells.prepare import Prepared
from dpbench.contract.attack import Attack
from dpbench.contract.plugin import Plugin
from dpbench.contract.spec import PluginSpec, Spec
from dpbench.contract.threat import UNDEFENDED
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError
from dpbench.executors.graph import Need, Ties
from dpbench.metrics.table import CALIBRATED
from dpbench.plugins.applicable import Place
from dpbench.plugins.configuring import attack_of, configured_as, defense_of
from dpbench.plugins.measuring import facts_of
from dpbench.protocols.doubts import clamped, missing_metrics, not_converged
from dpbench.protocols.inference.consistency import contradictions
from dpbench.protocols.inference.lab import CellLab
from dpbench.protocols.inference.report import report_of_cells
from dpbench.protocols.inference.yardstick import CELL_YARDSTICK
from dpbench.records.record import APART, Record
from dpbench.records.store import CELLS, Store, newest
from dpbench.report.content import Report
from dpbench.report.page import write_page
from dpbench.reporting.overview import write_overview
from dpbench.reporting.paper_table import write_paper_table
from dpbench.reporting.plots.budget_plot import write_budgets
from dpbench.reporting.plots.depth_plot import depths, write_depth
from dpbench.reporting.plots.pareto_plot import write_pareto
from dpbench.reporting.plots.plot_style import PLOTTED
from dpbench.reporting.plots.tradeoff_plot import write_tradeoff
from dpbench.reporting.table import print_table
from dpbench.running.options import Options
from dpbench.running.protocol import Planned, Protocol
from dpbench.running.unit import Progress, Shareable
from dpbench.running.yardstick import Yardstick
from dpbench.service.costs import MULTIPLY_ADDS
from dpbench.suite import preflight
from dpbench.suite.cell import CellSpec
from dpbench.suite.grid import plan
from dpbench.suite.overrides import overrides
from dpbench.suite.suite import AttackEntry, PluginEntry, Suite, extend, with_weights
from dpbench.suite.words import built_in, setting, words_for
from dpbench.text.hashing import content_hash


class Inference(Protocol[CellSpec, Record]):
    """Task accuracy beside reconstruction fidelity, for every pairing of a defense with an attack."""

    name: ClassVar[str] = "inference"
    unit: ClassVar[str] = "cell"
    picture_of: ClassVar[str] = "cell"
    suite: ClassVar[type[Spec]] = Suite
    store: ClassVar[Store[Any]] = CELLS
    boards: ClassVar[BoardKind] = CELL_BOARDS
    yardstick: ClassVar[Yardstick | None] = CELL_YARDSTICK
    plots: ClassVar[tuple[str, ...]] = ("tradeoff", "pareto", "budgets", "depth")

    def plan(self, suite: Suite, options: Options, progress: Progress) -> Planned[CellSpec]:
        """See `Protocol`."""
        chosen = extend(suite, defenses=options.defenses, attacks=options.attacks)
        changes = overrides(chosen.dataset, data=options.data, seed=options.seed, budget=options.budget)
        if options.shifted is not None:
            if chosen.shifted is None:
                raise DpbenchError(
                    f"--shifted {options.shifted}: suite {chosen.name!r} has no table [shifted] to override"
                )
            changes["shifted"] = chosen.shifted.renamed(options.shifted)
        chosen = chosen.model_copy(update=changes)
        if options.weights is not None:
            chosen = with_weights(chosen, options.weights)
        progress("looking at the data")
        size = chosen.dataset.image_size
        fingerprint = preflight.data_fingerprint(chosen.dataset, hint="" if options.data is not None else chosen.data)
        progress("looking at the backbones")
        entries, of_weights = preflight.with_class_order(chosen.backbones, chosen.dataset)
        chosen = chosen.model_copy(update={"backbones": entries})
        remarks = [*preflight.left_out(chosen.dataset), *of_weights]
        split_names = [preflight.split_names(entry, size) for entry in chosen.backbones]
        fingerprints = {entry.weights: preflight.weights_fingerprint(entry, size) for entry in chosen.backbones}
        shifted_fingerprint = ""
        if chosen.shifted is not None and chosen.grants_shifted:
            progress("looking at the shifted data")
            shifted_fingerprint = preflight.data_fingerprint(chosen.shifted.dataset(size), hint="")
            remarks += preflight.left_out(chosen.shifted.dataset(size))
        cells = plan(
            chosen,
            data_fingerprint=fingerprint,
            split_names=split_names,
            shifted_fingerprint=shifted_fingerprint,
            weights_fingerprints=fingerprints,
        )
        assert_free(facts_of(cells[0].metrics if cells else ()))
        return Planned(chosen, cells, tuple(remarks))

    def names_of(self, unit: CellSpec) -> tuple[str, ...]:
        """The label, the label with all parameters, the id."""
        words = words_for(unit)
        return words.label, words.full, unit.id

    def plugins(self, unit: CellSpec) -> list[tuple[Callable[[PluginSpec], Plugin], PluginSpec]]:
        """See `Protocol`."""
        metrics = [(partial(configured_as, sort="metric"), metric) for metric in unit.metrics]
        return [(attack_of, unit.attack), (defense_of, unit.defense), *metrics]

    def place(self, unit: CellSpec) -> Place:
        """See `Protocol`."""
        return Place(unit.backbone, unit.split_point, unit.dataset.image_size)

    def data(self, unit: CellSpec) -> dict[str, tuple[DatasetSpec, str]]:
        """See `Protocol`."""
        shifted = {} if unit.shifted is None else {"shifted": (unit.shifted, unit.shifted_fingerprint)}
        return {"dataset": (unit.dataset, unit.data_fingerprint), **shifted}

    def inputs(self, unit: CellSpec) -> list[Path] | None:
        """See `Protocol`."""
        plugins = (unit.attack, unit.defense, *unit.metrics)
        data = [spec for spec, _ in self.data(unit).values()]
        return preflight.inputs(plugins, data, unit.backbone)

    def moved(self, unit: CellSpec, places: Mapping[str, DatasetSpec]) -> CellSpec:
        """See `Protocol`."""
        return unit.model_copy(update=dict(places))

    def without_data(self, unit: CellSpec) -> CellSpec:
        """See `Protocol`."""
        marks = {"data_fingerprint": "", "shifted_fingerprint": "", "combined": ()}
        return unit.model_copy(update=marks)

    def ties(self, unit: CellSpec) -> Ties:
        """See `Protocol`."""
        images = content_hash([unit.data_fingerprint, unit.shifted_fingerprint])
        backbone = content_hash(["backbone", unit.data_fingerprint, unit.backbone_identity, unit.seed])
        judged_by = unit.judge.model_dump() if unit.judge is not None else unit.backbone.name
        judge = content_hash(["judge", unit.data_fingerprint, judged_by, unit.seed])
        defended = content_hash([backbone, unit.split_point, unit.defense.identity])
        undefended = unit.threat_model == "static" or unit.defense.name == UNDEFENDED
        client = [backbone, unit.split_point] if undefended else defended
        return Ties(
            needs=(
                Need("images", images),
                Need("backbone", backbone, (images,)),
                Need("judge", judge, (images,)),
                Need("defense", defended, (backbone,)),
            ),
            near=defended,
            alone=content_hash([client, unit.shifted_fingerprint, unit.budget]),
            after=unit.combined,
        )

    def kind_of(self, unit: CellSpec) -> str:
        """The name of its attack: cells of one attack take about as long as each other."""
        return unit.attack.name

    def is_finished(self, record: Record, unit: CellSpec, *, audit: bool) -> bool:
        """See `Protocol`."""
        return record.cell.id == record.id and not (audit and set(record.apart) != set(APART))

    def lab(self, device: torch.device, cache: Path, batch_size: int | None, *, audit: bool) -> CellLab:
        """See `Protocol`."""
        return CellLab(Pipeline(device, cache, batch_size, audit=audit))

    def newest(self, records: Iterable[Record]) -> list[Record]:
        """See `dpbench.records.store.newest`."""
        return newest(records)

    def board(self, records: Sequence[Record], *, claimed: Sequence[Record] = ()) -> pd.DataFrame:
        """One row per cell, and a worst-case row per defense setting."""
        return build_board(records, claimed=claimed)

    def rows(self, records: Sequence[Record]) -> dict[Row, BoardRow]:
        """See `Protocol`."""
        return {CELL_BOARDS.layout.name_of(vars(row.name)): row for row in build_rows(records)}

    def members(self, records: Sequence[Record]) -> dict[Row, tuple[str, ...]]:
        """See `Protocol`."""
        return {name: row.members for name, row in self.rows(records).items()}

    def columns_of(self, records: Sequence[Record], row: Row) -> dict[str, Any]:
        """See `Protocol`; not rounded."""
        found = self.rows(records).get(row)
        return {} if found is None else found.columns()

    def figures(self, records: Sequence[Record]) -> pd.DataFrame:
        """See `dpbench.board.leaderboard.per_image`."""
        return per_image(records)

    def as_csv(self, board: pd.DataFrame) -> str:
        """See `Protocol`."""
        return board_csv(board)

    def write(self, records: Sequence[Record], board: pd.DataFrame, output: Path, plot: str) -> int:
        """See `Protocol`."""
        if output.suffix.lower() == ".tex":
            return self.write_paper(board, output)
        if output.suffix.lower() == ".html":
            write_page(report_of_cells(board, records), output)
        elif output.suffix.lower() not in PLOTTED:
            write_board(board, output)
        elif plot == "tradeoff":
            write_tradeoff(board, output)
        elif plot == "pareto" and not write_pareto(board, output):
            raise DpbenchError("--plot pareto: no defense in these runs has both a leakage and an accuracy lost")
        elif plot == "budgets" and not write_budgets(board, output):
            raise DpbenchError("--plot budgets: these runs do not hold several budgets")
        elif plot == "depth" and not write_depth(board, depths(records), output):
            raise DpbenchError("--plot depth: these runs do not hold several split points of an undefended backbone")
        return len(board)

    def write_paper(
        self, board: pd.DataFrame, output: Path, rows: str | None = None, columns: Sequence[str] | None = None
    ) -> int:
        """See `write_paper_table`."""
        return write_paper_table(board, output, rows=rows, columns=columns)

    def show(self, records: Sequence[Record], board: pd.DataFrame, console: Console) -> None:
        """See `Protocol`."""
        print_table(board, console)

    def drawings(
        self, records: Sequence[Record], board: pd.DataFrame, folder: Path, *, pictures: bool
    ) -> dict[str, Callable[[], object]]:
        """See `Protocol`."""
        plots: dict[str, Callable[[], object]] = {
            "tradeoff.png": lambda: write_tradeoff(board, folder / "tradeoff.png"),
            "budgets.png": lambda: write_budgets(board, folder / "budgets.png"),
            "depth.png": lambda: write_depth(board, depths(records), folder / "depth.png"),
        }
        if pictures:
            plots["overview.png"] = lambda: write_overview(folder, board, folder / "overview.png")
        return plots

    def page(self, records: Sequence[Record], board: pd.DataFrame, folder: Path | None, *, title: str) -> Report:
        """See `report_of_cells`."""
        return report_of_cells(board, records, folder, title=title)

    def doubts(self, records: Sequence[Record]) -> list[str]:
        """See `Protocol`."""
        # a static attacker who fails is no surprise; an adaptive one who does may have had too small a budget
        lines = not_converged([r for r in records if r.cell.threat_model != "static"])
        lines += clamped(records)
        own = {facts.name for record in records for facts in record.metrics}
        return lines + missing_metrics(records, own.union(CALIBRATED, [MULTIPLY_ADDS]))

    def caption(self, record: Record) -> tuple[str, str]:
        """See `Protocol`."""
        accuracy = "" if record.utility is None else f", top-1 {record.utility.accuracy:.0%}"
        added = record.cost.added_multiply_adds if record.cost is not None else None
        cost = f", client {added / 1e6:+.1f} million multiply-adds" if added else ""
        return (
            f"{record.cell.split_point}, {record.named.defense}",
            f"{record.named.attack}, {record.cell.granted}: {record.recovered}{accuracy}{cost}",
        )

    def contradictions(self, records: Sequence[Record]) -> Iterable[tuple[str, str]]:
        """See `dpbench.protocols.inference.consistency`."""
        return contradictions(records)

    def shareable(self, suite: Suite, options: Options, progress: Progress, *, undefended: bool) -> list[Shareable]:
        """One for each backbone, split point, defense setting and seed."""
        # a cell has an attack, and one is as good as another: what the suite's need may not even be at hand
        some = min(name for name, cls in built_in(Attack).items() if cls.needs == "query" and not cls.floor)
        changes: dict[str, object] = {
            "attacks": [AttackEntry(name=some, victims=1)],
            "ensemble": None,
            "threat_models": ["weights"],
            "auxiliary": ["same"],
            "shifted": None,
        }
        if undefended:
            changes["defenses"] = [PluginEntry(name=UNDEFENDED)]

        def prepare(device: torch.device, cache: Path) -> Prepared:
            return Prepared(device, cache)

        planned = self.plan(suite.model_copy(update=changes), options, progress)
        return [Shareable(setting(cell), cell, prepare) for cell in planned.units]
