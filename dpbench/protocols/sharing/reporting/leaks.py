"""What the attacks recovered from exactly the features that were shared; from records alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from dpbench.board.cells import Figures, figures_of, in_order, worst_case
from dpbench.board.leakage import Normalised, leakage, normalised, scale_of, together
from dpbench.board.rows import column_values
from dpbench.contract.spec import PluginSpec
from dpbench.contract.threat import UNDEFENDED
from dpbench.metrics.intervals import interval_columns, resampled_means
from dpbench.protocols.sharing.records import SharingRecord
from dpbench.protocols.sharing.reporting.columns import FIGURES, KNOWLEDGE, Knowledge
from dpbench.protocols.sharing.reporting.costs import cost_columns, link_columns
from dpbench.protocols.sharing.units import Attacked
from dpbench.suite.ensembles import is_blind, is_floor


class Leaks:
    """What the attacks of one receiver recovered, by sender, defense, seed and knowledge.

    Args:
        records: of attacks.
    """

    def __init__(self, records: Sequence[SharingRecord]) -> None:
        self.units = [(r.unit, r.id) for r in records if isinstance(r.unit, Attacked)]
        self.failed = [(r.unit, r.error) for r in records if r.status != "ok" and isinstance(r.unit, Attacked)]
        self.found: dict[tuple[str, int], list[tuple[Attacked, SharingRecord, Figures]]] = {}
        for record in records:
            if record.status == "ok" and isinstance(record.unit, Attacked):
                unit = record.unit
                self.found.setdefault((unit.sender, unit.world.seed), []).append(
                    (unit, record, in_order(figures_of(record)))
                )
        self.floors = {
            place: floor
            for place, found in self.found.items()
            if (floor := worst_case([figures for unit, _, figures in found if _is_floor(unit)])) is not None
        }

    def of(self, sent: Mapping[str, PluginSpec]) -> dict[str, Any]:
        """Worst cases over the attacks on what was sent, per knowledge and over all; leakage on its scale."""
        row: dict[str, Any] = {}
        worst = self._worst(sent, KNOWLEDGE)
        if not worst:
            return row
        for knowledge in {unit.knowledge for unit, _ in self._taken(sent) if not _is_floor(unit)}:
            weaker = self._worst(sent, KNOWLEDGE[: KNOWLEDGE.index(knowledge) + 1])
            if weaker.keys() == worst.keys():  # on the same images: what is known more never shows less
                means = [
                    figures.restrict_to(worst[place].victims).values["ssim"].mean() for place, figures in weaker.items()
                ]
                row[f"ssim_{knowledge}"] = float(np.mean(means))
        row |= _figures(list(worst.values()))
        taken = self._taken(sent)
        row |= cost_columns(taken) | link_columns([(unit, record) for unit, record in taken if not _is_floor(unit)])
        trained_on = {name for _, record in taken for name in record.trained_on}
        row["trained_on"] = " ".join(sorted(trained_on))
        scaled = together([one for place in worst if (one := self._scaled(place, worst[place], trained_on))])
        if scaled:
            images = len({victim for one in scaled for victim in one.victims})
            row |= interval_columns("leakage", *leakage(scaled), images)
            row["leakage_metrics"] = scaled[0].label
        return row

    def _scaled(self, place: tuple[str, int], worst: Figures, trained_on: Collection[str]) -> Normalised | None:
        """A worst case between the floor and the undefended features of the same sender and seed."""
        clean = {place[0]: PluginSpec(name=UNDEFENDED)}
        alone = [f for u, _, f in self.found[place] if not _is_floor(u) and self._meant(u, clean)]
        scale = scale_of(self.floors.get(place), self._worst(clean, KNOWLEDGE).get(place), alone)
        return normalised(worst, scale.among([worst]) if scale is not None else None, trained_on)

    def failures(self, sent: Mapping[str, PluginSpec]) -> list[str]:
        """Which attacks on what was sent failed, and why."""
        return sorted({f"{unit.attack.name}: {error}" for unit, error in self.failed if self._meant(unit, sent)})

    def members(self, sent: Mapping[str, PluginSpec]) -> list[str]:
        """Ids of the attacks on what was sent, of those that failed too; floors belong to `floor_row`."""
        return [identity for unit, identity in self.units if not _is_floor(unit) and self._meant(unit, sent)]

    def floor_row(self) -> dict[str, Any]:
        """The best guess per image; of failed attacks only the name says that they were floors."""
        failures = sorted({f"{unit.attack.name}: {error}" for unit, error in self.failed if is_floor(unit.attack.name)})
        members = [identity for unit, identity in self.units if _is_floor(unit)]
        row = {"status": "ok", "leakage": 0.0, "members": members, **_figures(list(self.floors.values()))}
        return row | with_failures(row, failures)

    def _meant(self, unit: Attacked, sent: Mapping[str, PluginSpec]) -> bool:
        """Whether an attack was on something sent; of the undefended reference the name says it all."""
        spec = sent.get(unit.sender)
        if spec is None:
            return False
        return unit.defense.name == UNDEFENDED if spec.name == UNDEFENDED else unit.defense == spec

    def _taken(self, sent: Mapping[str, PluginSpec]) -> list[tuple[Attacked, SharingRecord]]:
        return [(u, r) for found in self.found.values() for u, r, _ in found if self._meant(u, sent)]

    def _worst(self, sent: Mapping[str, PluginSpec], allowed: Sequence[Knowledge]) -> dict[tuple[str, int], Figures]:
        """(sender, seed) -> best reconstruction per image, over attacks that know no more than is allowed.

        Floors that look at nothing can be put out by anyone.
        """
        worst = {}
        for place, found in self.found.items():
            meant = [(u, f) for u, _, f in found if not _is_floor(u) and self._meant(u, sent)]
            taken = [f for u, f in meant if u.knowledge in allowed]
            if not taken:
                continue
            blind = [f for u, _, f in found if is_blind(u.attack.name)]
            best = worst_case([*taken, *blind])
            if best is not None and best.victims:
                worst[place] = best
        return worst


def _is_floor(unit: Attacked) -> bool:
    """The built-in floors set the zero of the scale, whatever a plug-in says of itself."""
    return is_floor(unit.attack.name)


def with_failures(row: Mapping[str, Any], failures: Sequence[str]) -> dict[str, Any]:
    """Status and error of a row some of whose attacks failed; nothing where none did."""
    if not failures:
        return {}
    status = "incomplete" if row["status"] == "ok" else row["status"]
    return {"status": status, "error": "; ".join([*filter(None, [row.get("error")]), *failures])}


def _figures(samples: Sequence[Figures]) -> dict[str, Any]:
    """Columns of the figures of a worst case: means and intervals over victims, senders and seeds."""
    row: dict[str, Any] = {"victims": sum(len(figures.victims) for figures in samples)}
    own = {facts.name: facts for facts in samples[0].metrics if all(facts in one.metrics for one in samples)}
    if own:
        row["metrics"] = " ".join(facts.text for facts in own.values())
    for column in (*FIGURES, *own, "reid_top1", "label_read"):
        given = [(figures.victims, column_values(figures, column)) for figures in samples]
        known = [(victims, values) for victims, values in given if values is not None]
        if len(known) == len(samples):  # else it is a mean over other victims than the rest of the row
            means = [float(values.mean()) for _, values in known]
            drawn = resampled_means([(victims, values[:, None]) for victims, values in known])
            images = len({victim for victims, _ in known for victim in victims})
            limits = own[column].range if column in own else None
            row |= interval_columns(column, means, [resampled[:, 0] for resampled in drawn], images, limits=limits)
    return row
