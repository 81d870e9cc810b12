"""Records of sharing runs -> board: per condition and defense what the receiver gained, and what was given away.

Derived from records alone. The columns are in dpbench/guide/sharing-features.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dpbench.board.cells import grouped
from dpbench.board.columns import Row, decimals_of, own_metrics, with_arguments
from dpbench.contract.spec import PluginSpec
from dpbench.contract.threat import UNDEFENDED
from dpbench.metrics.intervals import Floats, bounds, interval_columns, over_seeds, percentiles, resampled_shares
from dpbench.protocols.sharing.records import SharingRecord
from dpbench.protocols.sharing.reporting.columns import (
    COUNTS,
    DECIMALS,
    FLOOR,
    OPTIONAL_COLUMNS,
    RIVAL,
    SHARING_BOARDS,
    SUBJECT,
    columns_with,
)
from dpbench.protocols.sharing.reporting.leaks import Leaks, with_failures
from dpbench.protocols.sharing.suite import CONDITIONS, Refinement
from dpbench.protocols.sharing.units import Attacked, Training
from dpbench.running.yardstick import Yardstick
from dpbench.suite.names import arguments_text, plugin_names, short_name, values_of

REFERENCES = ("own", "clean-images", "clean-features", FLOOR)
"""Conditions that gain, the share kept and leakage are set against."""


def build_sharing_board(records: Iterable[SharingRecord]) -> pd.DataFrame:
    """The board of some records, all seeds together: columns as in dpbench/guide/sharing-features.md, figures rounded.

    A row is a condition of the receiver; of `defended-features` one for each defense setting, with what the attacks
    recover from the features shared under it. `clean-features` has the leakage of the undefended features.
    """
    rows = _all_rows(records)
    arguments = {row["defense_args"]: row.pop("arguments", {}) for row in rows}
    board = pd.DataFrame(rows)
    own = own_metrics(board)
    filled = [column for column in OPTIONAL_COLUMNS if column in board and board[column].notna().any()]
    board = board.reindex(columns=columns_with(own, filled))
    decimals = DECIMALS | decimals_of(own.values())
    for column in board.columns:
        if pd.api.types.is_float_dtype(board[column]):
            board[column] = board[column].round(decimals.get(column, 4)) + 0.0  # + 0.0: no -0.0
    for column in ("own_images", "shared_images", "victims", *(column for column in COUNTS if column in filled)):
        board[column] = board[column].astype("Int64")
    texts = [
        "defense",
        "defense_args",
        "serves",
        *(["metrics"] if own else []),
        "leakage_metrics",
        "trained_on",
        "error",
    ]
    board[texts] = board[texts].astype(object).where(board[texts].notna(), "")
    return with_arguments(board, arguments)


def members_of(records: Iterable[SharingRecord]) -> dict[Row, tuple[str, ...]]:
    """Name of a row -> ids of the trainings, and of the attacks on what was shared, that it rests on.

    What its gain and leakage are set against, `REFERENCES`, are rows of their own.
    """
    return {SHARING_BOARDS.layout.name_of(row): tuple(row["members"]) for row in _all_rows(records)}


def arranged(board: pd.DataFrame) -> pd.DataFrame:
    """Rows of several runs in the order of a board."""
    rows = [{str(key): value for key, value in row.items()} for row in board.to_dict("records")]
    subjects = list(dict.fromkeys(tuple(row[name] for name in SUBJECT) for row in rows))
    order = sorted(
        range(len(rows)), key=lambda at: (subjects.index(tuple(rows[at][name] for name in SUBJECT)), _order(rows[at]))
    )
    return board.iloc[order].reset_index(drop=True)


def is_reference(board: pd.DataFrame) -> pd.Series[bool]:
    """Rows whose condition is one of `REFERENCES`."""
    return board["condition"].isin(REFERENCES)


SHARING_YARDSTICK = Yardstick(
    scope=SUBJECT,
    is_reference=is_reference,
    columns=tuple(f"{name}{end}" for name in ("gain", "share_kept", RIVAL, "leakage") for end in ("", "_low", "_high")),
    words=("leakage_metrics",),
    arranged=arranged,
)
"""What rows of one run alone can say: against own data, clean images, soft labels, undefended features, the floor."""


def _all_rows(records: Iterable[SharingRecord]) -> list[dict[str, Any]]:
    in_order_of_id = sorted(records, key=lambda record: record.id)  # whichever order they come in
    return [row for group in grouped(in_order_of_id, _scope).values() for row in _rows(group)]


def _scope(record: SharingRecord) -> tuple[str, ...]:
    """A key, equal for records that are compared with each other: same images, network and receiver."""
    world = record.unit.world
    same = world.model_dump_json(exclude={"seed", "data_fingerprint"})
    return world.data_fingerprint, same, record.unit.receiver


def _rows(records: Sequence[SharingRecord]) -> list[dict[str, Any]]:
    trainings = [(record, record.unit) for record in records if isinstance(record.unit, Training)]
    leaks = Leaks([record for record in records if isinstance(record.unit, Attacked)])
    called = plugin_names(spec for record in records for spec in _plugins(record))
    ordered = []
    for recipe in grouped(trainings, lambda pair: pair[1].refinement.model_dump_json()).values():
        own = {unit.world.seed: record for record, unit in recipe if unit.condition == "own"}
        clean = {unit.world.seed: record for record, unit in recipe if unit.condition == "clean-images"}
        soft = {unit.world.seed: record for record, unit in recipe if unit.condition == "soft-labels"}
        rows = []
        for same in grouped(recipe, lambda pair: (pair[1].condition, _applied(pair[1]))).values():
            unit = same[0][1]
            row = _named(unit, called) | _benefit([record for record, _ in same], own, clean, soft)
            row["members"] = [record.id for record, _ in same]
            if unit.condition in ("clean-features", "defended-features"):
                row |= leaks.of(_sent(unit))
                row |= with_failures(row, leaks.failures(_sent(unit)))
                row["members"] += leaks.members(_sent(unit))
            rows.append(row)
        ordered += sorted(rows, key=_order)
    for unit in _only_attacked(records):
        sent = _sent(unit)
        meant = any(spec.only_attacked for spec in sent.values())
        untrained = {"status": "incomplete", "error": "attacked, but no training on it is in these runs"}
        row = _named(unit, called) | ({"status": "ok"} if meant else untrained) | leaks.of(sent)
        row["members"] = leaks.members(sent)
        ordered.append(row | with_failures(row, leaks.failures(sent)))
    if ordered and leaks.floors:
        of_nobody = {"condition": FLOOR, "defense": "", "defense_args": ""}
        ordered.append({name: ordered[0][name] for name in SUBJECT} | of_nobody | leaks.floor_row())
    return ordered


def _only_attacked(records: Sequence[SharingRecord]) -> Iterator[Training]:
    """The trainings that would be beside these attacks: one for each defense that was attacked, undefended first."""
    trainings = [record.unit for record in records if isinstance(record.unit, Training)]
    trained = [_sent(unit) for unit in trainings if unit.condition in ("clean-features", "defended-features")]
    attacks = [record.unit for record in records if isinstance(record.unit, Attacked)]
    if trainings:  # the undefended reference needs no row of its own
        attacks = [unit for unit in attacks if unit.defense.name != UNDEFENDED]
    attacks = [unit for unit in attacks if all(sent.get(unit.sender) != unit.defense for sent in trained)]
    settings = grouped(attacks, lambda unit: unit.defense.model_dump_json())
    for _, same in sorted(settings.items(), key=lambda item: (item[1][0].defense.name != UNDEFENDED, item[0])):
        undefended = same[0].defense.name == UNDEFENDED
        yield Training(
            world=same[0].world,
            receiver=same[0].receiver,
            condition="clean-features" if undefended else "defended-features",
            applied={} if undefended else {unit.sender: unit.defense for unit in same},
            refinement=Refinement(),
        )


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    place = len(CONDITIONS) if row["condition"] == FLOOR else CONDITIONS.index(row["condition"])
    accuracy = row.get("accuracy", np.nan)
    return place, -accuracy if np.isfinite(accuracy) else np.inf, row["defense"], row["defense_args"]


def _sent(unit: Training) -> dict[str, PluginSpec]:
    """Sender -> what it applied; undefended where nothing is said."""
    senders = [owner.name for owner in unit.world.owners if owner.name != unit.receiver]
    return {sender: unit.applied.get(sender, PluginSpec(name=UNDEFENDED)) for sender in senders}


def _applied(unit: Training) -> tuple[str, ...]:
    return tuple(sorted(f"{entity} {spec.model_dump_json()}" for entity, spec in unit.applied.items()))


def _plugins(record: SharingRecord) -> list[PluginSpec]:
    """The defenses that a record is about."""
    unit = record.unit
    return list(unit.applied.values()) if isinstance(unit, Training) else [unit.defense]


def _named(unit: Training, called: Mapping[tuple[str, str], str]) -> dict[str, Any]:
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
        "defense": " + ".join(called[spec.name, spec.source] for spec in distinct),
        "defense_args": " + ".join(arguments_text(spec.shown_arguments) for spec in distinct),
        "arguments": {
            (number, name): value
            for number, spec in enumerate(distinct)
            for name, value in values_of(spec.shown_arguments).items()
        },
    }


def _benefit(
    records: Sequence[SharingRecord],
    own: Mapping[int, SharingRecord],
    clean: Mapping[int, SharingRecord],
    soft: Mapping[int, SharingRecord],
) -> dict[str, Any]:
    """Accuracy over seeds, paired with own data only, clean images and soft labels: image by image, seed by seed."""
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
    images = len(hits[0])
    row |= interval_columns("accuracy", [float(np.mean(one)) for one in hits], resampled_shares(hits), images)
    seeds = [record.unit.world.seed for record in finished]
    paired = [seed for seed in seeds if _of(own, seed)]
    if paired:
        theirs, alone = [hits[seeds.index(seed)] for seed in paired], [_hits(own[seed]) for seed in paired]
        gain, gains = _difference(theirs, alone)
        row |= interval_columns("gain", [gain], [gains], images)
        if all(_of(clean, seed) for seed in paired):
            ceiling, ceilings = _difference([_hits(clean[seed]) for seed in paired], alone)
            if bounds(ceilings, ceiling, images)[0] > 0:  # else there is no gain to keep a share of
                kept = gain / ceiling
                low, high = percentiles(gains / np.maximum(ceilings, 1e-9), kept)
                row |= {"share_kept": kept, "share_kept_low": low, "share_kept_high": high}
    rivals = [seed for seed in seeds if _of(soft, seed)]
    if rivals:
        with_labels = [_hits(soft[seed]) for seed in rivals]
        beyond, resamples = _difference([hits[seeds.index(seed)] for seed in rivals], with_labels)
        row |= interval_columns(RIVAL, [beyond], [resamples], images)
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
    """The difference of two accuracies over seeds, and its resamples: the same images are resampled in both."""
    drawn = resampled_shares([*one, *other])
    differences = [a - b for a, b in zip(drawn[: len(one)], drawn[len(one) :], strict=True)]
    mean = float(np.mean([np.mean(a) - np.mean(b) for a, b in zip(one, other, strict=True)]))
    return mean, over_seeds(differences)
