"""Records of sharing runs -> board: per condition and defense what the receiver gained, and what was given away.

Derived from records alone. The columns are in leaderboards/README.md, under "Sharing".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dpbench.cells import grouped
from dpbench.ensembles import BLIND_FLOORS, FLOORS
from dpbench.figures import Figures, figures_of, in_order, worst_case
from dpbench.intervals import Floats, bounds, over_seeds, resampled_means, resampled_shares
from dpbench.leakage import OnScale, Scale, leakage, on_scale
from dpbench.row_names import arguments_text, short_name
from dpbench.sharing.records import SharingRecord
from dpbench.sharing.suite import CONDITIONS, KNOWLEDGE, Knowledge
from dpbench.sharing.units import Attacked, Training
from dpbench.specs import PluginSpec
from dpbench.types import UNDEFENDED

FLOOR = "floor"
"""What the column `condition` says in the row of the best guess per image: the zero of the scale."""

METRICS = {"ssim": 4, "psnr_db": 2, "lpips": 4}
"""Figures of the worst case, and their decimals."""

COLUMNS = (
    *("dataset", "backbone", "split_point", "receiver", "senders", "condition", "defense", "defense_args"),
    *("status", "seeds", "own_images", "shared_images"),
    *("accuracy", "accuracy_low", "accuracy_high"),
    *("gain", "gain_low", "gain_high", "share_kept", "share_kept_low", "share_kept_high"),
    *("serves", "agreement", "kl", "public_accuracy", "distortion"),
    "victims",
    *(f"ssim_{knowledge}" for knowledge in KNOWLEDGE),
    *(f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")),
    *("reid_top1", "reid_top1_low", "reid_top1_high", "label_read", "label_read_low", "label_read_high"),
    *("leakage", "leakage_low", "leakage_high", "trained_on", "error"),
)

DECIMALS = {"psnr_db": 2, "psnr_db_low": 2, "psnr_db_high": 2}


def build_sharing_board(records: Iterable[SharingRecord]) -> pd.DataFrame:
    """The board of some records, all seeds together: columns as in leaderboards/README.md, figures rounded.

    A row is a condition of the receiver; of `defended-features` one for each defense setting, with what the attacks
    recover from the features shared under it. `clean-features` has the leakage of the undefended features.
    """
    rows: list[dict[str, Any]] = []
    in_order_of_id = sorted(records, key=lambda record: record.id)  # whichever order they come in
    for group in grouped(in_order_of_id, _scope).values():
        rows += _rows(group)
    board = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    for column in board.columns:
        if pd.api.types.is_float_dtype(board[column]):
            board[column] = board[column].round(DECIMALS.get(column, 4)) + 0.0  # + 0.0: no -0.0
    for column in ("own_images", "shared_images", "victims"):
        board[column] = board[column].astype("Int64")
    texts = ["defense", "defense_args", "serves", "trained_on", "error"]
    board[texts] = board[texts].astype(object).where(board[texts].notna(), "")
    return board


def _scope(record: SharingRecord) -> tuple[str, ...]:
    """What is compared with each other: same images, network and receiver."""
    world = record.unit.world
    same = world.model_dump_json(exclude={"seed", "data_fingerprint"})
    return world.data_fingerprint, same, record.unit.receiver


def _rows(records: Sequence[SharingRecord]) -> list[dict[str, Any]]:
    trainings = [(record, record.unit) for record in records if isinstance(record.unit, Training)]
    leaks = Leaks([record for record in records if isinstance(record.unit, Attacked)])
    ordered = []
    for recipe in grouped(trainings, lambda pair: pair[1].refinement.model_dump_json()).values():
        own = {unit.world.seed: record for record, unit in recipe if unit.condition == "own"}
        clean = {unit.world.seed: record for record, unit in recipe if unit.condition == "clean-images"}
        rows = []
        for same in grouped(recipe, lambda pair: (pair[1].condition, _applied(pair[1]))).values():
            unit = same[0][1]
            row = _named(unit) | _benefit([record for record, _ in same], own, clean)
            if unit.condition in ("clean-features", "defended-features"):
                row |= leaks.of(_sent(unit))
                row |= _told(row, leaks.failures(_sent(unit)))
            rows.append(row)
        ordered += sorted(rows, key=_order)
    if trainings and leaks.floors:
        of_nobody = {"condition": FLOOR, "defense": "", "defense_args": ""}
        ordered.append(_named(trainings[0][1]) | of_nobody | leaks.floor_row())
    return ordered


def _told(row: Mapping[str, Any], failures: Sequence[str]) -> dict[str, Any]:
    """Status and error of a row, some of whose attacks failed."""
    if not failures:
        return {}
    status = "incomplete" if row["status"] == "ok" else row["status"]
    return {"status": status, "error": "; ".join([*filter(None, [row.get("error")]), *failures])}


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    place = CONDITIONS.index(row["condition"])
    accuracy = row.get("accuracy", np.nan)
    return place, -accuracy if np.isfinite(accuracy) else np.inf, row["defense"], row["defense_args"]


def _sent(unit: Training) -> dict[str, PluginSpec]:
    """Sender -> what it applied; undefended where nothing is said."""
    senders = [owner.name for owner in unit.world.owners if owner.name != unit.receiver]
    return {sender: unit.applied.get(sender, PluginSpec(name=UNDEFENDED)) for sender in senders}


def _applied(unit: Training) -> tuple[str, ...]:
    return tuple(sorted(f"{entity} {spec.model_dump_json()}" for entity, spec in unit.applied.items()))


def _named(unit: Training) -> dict[str, Any]:
    world = unit.world
    applied = _sent(unit).values() if unit.applied else []
    distinct = list({spec.model_dump_json(): spec for spec in applied}.values())
    return {
        "dataset": short_name(world.dataset.name),
        "backbone": world.backbone.name,
        "split_point": world.split_point,
        "receiver": unit.receiver,
        "senders": " ".join(_sent(unit)),
        "condition": unit.condition,
        "defense": " + ".join(short_name(spec.name) for spec in distinct),
        "defense_args": " + ".join(arguments_text(spec.arguments) for spec in distinct),
    }


def _benefit(
    records: Sequence[SharingRecord], own: Mapping[int, SharingRecord], clean: Mapping[int, SharingRecord]
) -> dict[str, Any]:
    """Accuracy over seeds, paired with own data only and with the clean images: image by image, seed by seed."""
    finished = [record for record in records if record.trained is not None]
    failed = [record for record in records if record.trained is None]
    row: dict[str, Any] = {
        "status": "ok" if not failed else "incomplete" if finished else "failed",
        "error": "; ".join(sorted({f"seed {record.unit.world.seed}: {record.error}" for record in failed})),
        "seeds": " ".join(str(record.unit.world.seed) for record in finished),
    }
    if not finished:
        return row
    hits = [_hits(record) for record in finished]
    mean = float(np.mean([np.mean(one) for one in hits]))
    row |= _interval("accuracy", mean, over_seeds(resampled_shares(hits)))
    seeds = [record.unit.world.seed for record in finished]
    paired = [seed for seed in seeds if _of(own, seed)]
    if paired:
        theirs, alone = [hits[seeds.index(seed)] for seed in paired], [_hits(own[seed]) for seed in paired]
        gain, gains = _difference(theirs, alone)
        row |= _interval("gain", gain, gains)
        if all(_of(clean, seed) for seed in paired):
            ceiling, ceilings = _difference([_hits(clean[seed]) for seed in paired], alone)
            if bounds(ceilings, ceiling)[0] > 0:  # else there is no gain to keep a share of
                row |= _interval("share_kept", gain / ceiling, gains / np.maximum(ceilings, 1e-9))
    trained = [record.trained for record in finished if record.trained is not None]
    row |= {"own_images": trained[0].own_images, "shared_images": trained[0].shared_images}
    entities = list(trained[0].serves)
    row["serves"] = " ".join(f"{name}={np.mean([one.serves[name] for one in trained]):.4f}" for name in entities)
    told = [found for one in trained for found in one.equivalence.values()]
    if told:
        measured = ("agreement", "kl", "distortion")
        row |= {name: float(np.mean([getattr(one, name) for one in told])) for name in measured}
        row["public_accuracy"] = float(np.mean([one.accuracy for one in told]))
    return row


def _of(records: Mapping[int, SharingRecord], seed: int) -> bool:
    return seed in records and records[seed].trained is not None


def _hits(record: SharingRecord) -> list[bool]:
    assert record.trained is not None
    return record.trained.correct


def _difference(one: Sequence[list[bool]], other: Sequence[list[bool]]) -> tuple[float, Floats]:
    """Of two accuracies, over seeds; the same images are resampled in both."""
    drawn = resampled_shares([*one, *other])
    differences = [a - b for a, b in zip(drawn[: len(one)], drawn[len(one) :], strict=True)]
    mean = float(np.mean([np.mean(a) - np.mean(b) for a, b in zip(one, other, strict=True)]))
    return mean, over_seeds(differences)


def _interval(column: str, mean: float, resampled: Floats) -> dict[str, float]:
    low, high = bounds(resampled, mean)
    return {column: mean, f"{column}_low": low, f"{column}_high": high}


class Leaks:
    """What the attacks of one receiver recovered, by sender, defense, seed and knowledge.

    Args:
        records: of attacks.
    """

    def __init__(self, records: Sequence[SharingRecord]) -> None:
        self.records = list(records)
        self.failed = [record for record in records if record.status != "ok"]
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
            if (floor := worst_case([figures for _, record, figures in found if record.floor])) is not None
        }

    def of(self, sent: Mapping[str, PluginSpec]) -> dict[str, Any]:
        """Worst cases over the attacks on what was sent, per knowledge and over all; leakage on its scale."""
        row: dict[str, Any] = {}
        worst = self._worst(sent, KNOWLEDGE)
        if not worst:
            return row
        for knowledge in {unit.knowledge for unit, record in self._taken(sent) if not record.floor}:
            weaker = self._worst(sent, KNOWLEDGE[: KNOWLEDGE.index(knowledge) + 1])
            if weaker.keys() == worst.keys():  # on the same images: what is known more never shows less
                means = [figures.on(worst[place].victims).values["ssim"].mean() for place, figures in weaker.items()]
                row[f"ssim_{knowledge}"] = float(np.mean(means))
        row |= _figures(list(worst.values()))
        trained_on = {name for _, record in self._taken(sent) for name in record.trained_on}
        row["trained_on"] = " ".join(sorted(trained_on))
        undefended = self._worst({sender: PluginSpec(name=UNDEFENDED) for sender in sent}, KNOWLEDGE)
        scaled = [
            one
            for place, figures in worst.items()
            if (one := self._scaled(place, figures, undefended, frozenset(trained_on))) is not None
        ]
        if scaled and all(one.judged for one in scaled):
            figures, draws = leakage(scaled)
            row |= _interval("leakage", float(np.mean(figures)), over_seeds(draws))
        return row

    def failures(self, sent: Mapping[str, PluginSpec]) -> list[str]:
        """Which attacks on what was sent failed, and why."""
        broken = [(r.unit, r.error) for r in self.failed if isinstance(r.unit, Attacked)]
        return sorted({f"{unit.attack.name}: {error}" for unit, error in broken if self._meant(unit, sent)})

    def floor_row(self) -> dict[str, Any]:
        """The best guess per image; of failed attacks only the name says that they were floors."""
        broken = [(r.unit, r.error) for r in self.failed if isinstance(r.unit, Attacked)]
        failures = sorted({f"{unit.attack.name}: {error}" for unit, error in broken if unit.attack.name in FLOORS})
        row = {"status": "ok", "leakage": 0.0, **_figures(list(self.floors.values()))}
        return row | _told(row, failures)

    def _scaled(
        self,
        place: tuple[str, int],
        figures: Figures,
        undefended: Mapping[tuple[str, int], Figures],
        trained_on: frozenset[str],
    ) -> OnScale | None:
        return on_scale(figures, Scale(self.floors.get(place), undefended.get(place), trained_on))

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
            meant = [(u, f) for u, r, f in found if not r.floor and self._meant(u, sent)]
            taken = [f for u, f in meant if u.knowledge in allowed]
            if not taken:
                continue
            blind = [f for u, r, f in found if r.floor and u.attack.name in BLIND_FLOORS]
            best = worst_case([*taken, *blind])
            if best is not None and best.victims:
                worst[place] = best
        return worst


def _figures(samples: Sequence[Figures]) -> dict[str, Any]:
    """Means and intervals over victims, senders and seeds."""
    row: dict[str, Any] = {"victims": sum(len(figures.victims) for figures in samples)}
    for metric in METRICS:
        row |= _mean(metric, samples, metric)
    for column, metric in {"reid_top1": "reid_rank", "label_read": "label_read"}.items():
        row |= _mean(column, samples, metric)
    return row


def _mean(column: str, samples: Sequence[Figures], metric: str) -> dict[str, float]:
    if not all(metric in figures.values for figures in samples):
        return {}
    given = []
    for figures in samples:
        values = figures.values[metric]
        given.append((figures.victims, (values == 0).astype(float) if metric == "reid_rank" else values))
    mean = float(np.mean([values.mean() for _, values in given]))
    drawn = resampled_means([(victims, values[:, None]) for victims, values in given])
    return _interval(column, mean, over_seeds([one[:, 0] for one in drawn]))
