"""Records -> board: one row per cell, and one worst-case row per defense setting and threat model.

Derived from records alone; the order in which they are read does not matter. The rules are in
leaderboards/README.md, for people who read boards and not code.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from dpbench.board_files import COLUMNS, WORST_CASE, tidy
from dpbench.board_files import read_board as read_board
from dpbench.board_files import write_board as write_board
from dpbench.errors import DpbenchError
from dpbench.intervals import Floats, mean_interval, share_interval
from dpbench.row_names import RowName, name_rows
from dpbench.store import METRICS, Record, newest_records
from dpbench.types import THREAT_MODELS

PSNR_CAP_DB = 100.0
"""Identical images have an infinite PSNR, which no mean survives."""

LOWER_IS_CLOSER = ("mse", "lpips")

CALIBRATED = {"ssim": 0.02, "psnr_db": 0.2, "lpips": 0.02}
"""Metrics that make up `leakage`; one counts where the undefended model is so far above the floor."""

UNDEFENDED = "none"

T = TypeVar("T")


@dataclass(frozen=True)
class Figures:
    """Per-image fidelity: each metric's array is aligned with `victims` (content hashes)."""

    victims: tuple[str, ...]
    values: dict[str, Floats]

    def on(self, victims: Sequence[str]) -> Figures:
        """The same figures for some of the victims, in the order given."""
        place = {victim: index for index, victim in enumerate(self.victims)}
        chosen = [place[victim] for victim in victims]
        return Figures(tuple(victims), {metric: array[chosen] for metric, array in self.values.items()})


def figures_of(record: Record) -> Figures:
    """The figures of a finished cell; a metric that is not finite everywhere counts as not measured."""
    values = {}
    for metric in METRICS:
        array = np.asarray(record.fidelity.get(metric, []), dtype=np.float64)
        if len(array) not in (0, len(record.victims)):
            raise DpbenchError(
                f"record {record.id} has {len(array)} figures of {metric} for {len(record.victims)} victims; "
                "delete it and run the suite again, which redoes that cell alone"
            )
        if metric == "psnr_db":
            array = np.minimum(array, PSNR_CAP_DB)
        if len(array) and np.isfinite(array).all():
            values[metric] = array
    return Figures(tuple(record.victims), values)


def worst_case(cells: Sequence[Figures]) -> Figures | None:
    """Per image and metric the best reconstruction, over the victims and metrics that all cells have."""
    if not cells:
        return None
    others = [set(cell.victims) for cell in cells[1:]]
    shared = [victim for victim in cells[0].victims if all(victim in other for other in others)]
    aligned = [cell.on(shared) for cell in cells]
    best = {}
    for metric in METRICS:
        if all(metric in cell.values for cell in aligned):
            pick = np.minimum if metric in LOWER_IS_CLOSER else np.maximum
            best[metric] = pick.reduce([cell.values[metric] for cell in aligned])
    return Figures(tuple(shared), best)


def leakage(row: Figures | None, floor: Figures | None, undefended: Figures | None) -> float:
    """0 at the floor, 1 at the undefended model, mean over SSIM, PSNR and LPIPS; NaN where it has no meaning.

    A metric counts where all three have it and the undefended model is clearly above the floor.
    """
    if row is None or floor is None or undefended is None:
        return np.nan
    known = set(floor.victims) & set(undefended.victims)
    shared = [victim for victim in row.victims if victim in known]
    if not shared:
        return np.nan
    value, low, high = (figures.on(shared).values for figures in (row, floor, undefended))
    ratios = []
    for metric, margin in CALIBRATED.items():
        if metric in value and metric in low and metric in high:
            sign = -1 if metric in LOWER_IS_CLOSER else 1
            span = sign * (high[metric].mean() - low[metric].mean())
            if span > margin:
                ratios.append(sign * (value[metric].mean() - low[metric].mean()) / span)
    return float(np.clip(np.mean(ratios), 0, 1)) if ratios else np.nan


@dataclass(frozen=True)
class _Cell:
    name: RowName
    record: Record
    figures: Figures | None

    @property
    def ok(self) -> bool:
        return self.figures is not None


def build_board(records: Iterable[Record]) -> pd.DataFrame:
    """The board of some records: columns as in leaderboards/README.md, sorted, figures rounded."""
    cells = _cells(records)
    rows: list[dict[str, Any]] = []
    for group in _grouped(cells, lambda cell: cell.name.group).values():
        rows += _rows_of_group(group)
    if not rows:
        return tidy(pd.DataFrame(columns=list(COLUMNS)))
    return _sorted(tidy(pd.DataFrame(rows)))


def _cells(records: Iterable[Record]) -> list[_Cell]:
    unique: dict[str, Record] = {}
    # the same cell may be in two directories: a finished one counts before a failed one, then the latest
    for record in sorted(records, key=lambda r: (r.id, r.status == "ok", r.created, r.model_dump_json())):
        unique[record.id] = record
    kept = list(unique.values())
    names = name_rows([record.cell for record in kept])
    return [
        _Cell(name, record, figures_of(record) if record.status == "ok" else None)
        for name, record in zip(names, kept, strict=True)
    ]


def _grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> dict[Hashable, list[T]]:
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _rows_of_group(group: list[_Cell]) -> list[dict[str, Any]]:
    """Rows of one dataset, backbone, split point and seed: the scope of accuracy drop and leakage."""
    reference = [cell for cell in group if cell.name.defense == UNDEFENDED]
    floors = [c for c in reference if c.record.floor] or [c for c in group if c.record.floor]
    floor = worst_case([cell.figures for cell in floors if cell.figures is not None])
    undefended = _reference_figures(reference, floors)
    undefended_correct = _correct(reference)

    rows = []
    for cell in group:
        correct = cell.record.utility.correct if cell.ok and cell.record.utility else []
        rows.append(
            cell.name.columns()
            | {
                "status": cell.record.status,
                "seconds": sum(cell.record.seconds.values()),
                "cell": cell.record.id,
            }
            | {"error": _one_line(cell.record.error or "no reason given") if not cell.ok else ""}
            | _accuracy(correct, undefended_correct)
            | _fidelity(cell.figures)
            | {"leakage": leakage(cell.figures, floor, undefended)}
        )
    for setting in _grouped(group, lambda cell: (cell.name.defense, cell.name.defense_args)).values():
        for threat_model in _threat_models(setting):
            members = _granted(setting, threat_model, floors)
            found, status, error = _ensemble(members)
            rows.append(
                setting[0].name.columns()
                | {"attack": WORST_CASE, "threat_model": threat_model, "status": status, "error": error}
                | {"seconds": sum(sum(cell.record.seconds.values()) for cell in members), "cell": ""}
                | _accuracy(_correct(setting), undefended_correct)
                | _fidelity(found)
                | {"leakage": leakage(found, floor, undefended)}
            )
    return rows


def _threat_models(setting: list[_Cell]) -> list[str]:
    """Those of its attacks; those of its floors where it has no others."""
    attacks = [cell for cell in setting if not cell.record.floor] or setting
    present = {cell.record.cell.threat_model for cell in attacks}
    return [threat_model for threat_model in THREAT_MODELS if threat_model in present]


def _granted(setting: list[_Cell], threat_model: str, floors: list[_Cell]) -> list[_Cell]:
    """The ensemble of a threat model: its attacks, those of weaker ones, and the floors, which anyone can output."""
    granted = THREAT_MODELS[: [str(name) for name in THREAT_MODELS].index(threat_model) + 1]
    attacks = [c for c in setting if c.record.cell.threat_model in granted and not c.record.floor]
    return attacks + ([cell for cell in setting if cell.record.floor] or floors)


def _ensemble(members: list[_Cell]) -> tuple[Figures | None, str, str]:
    """Worst case, status and what to say of it."""
    failed = sorted(cell.name.attack for cell in members if not cell.ok)
    attacks = [cell for cell in members if not cell.record.floor] or members
    if not any(cell.ok for cell in attacks):
        return None, "failed", f"no attack finished; failed: {', '.join(failed)}"
    found = worst_case([cell.figures for cell in members if cell.figures is not None])
    if found is None or not found.victims:
        return None, "failed", "the attacks have no victim in common"
    if failed:
        note = f"failed: {', '.join(failed)}; with them it could only leak more"
        return found, "incomplete", note
    return found, "ok", ""


def _reference_figures(reference: list[_Cell], floors: list[_Cell]) -> Figures | None:
    """The undefended model under the strongest threat model that was run; it needs a real attack."""
    if all(cell.record.floor for cell in reference):
        return None
    return _ensemble(_granted(reference, _threat_models(reference)[-1], floors))[0]


def _correct(cells: list[_Cell]) -> list[bool]:
    """Top-1 per test image of a setting: measured before the attack, so failed cells may have it too."""
    measured = [cell.record.utility.correct for cell in cells if cell.record.utility is not None]
    return measured[0] if measured else []


def _accuracy(correct: list[bool], undefended: list[bool]) -> dict[str, float]:
    share, low, high = share_interval(correct)
    drop = sum(undefended) / len(undefended) - share if undefended else np.nan
    return {"accuracy": share, "accuracy_low": low, "accuracy_high": high, "accuracy_drop": drop}


def _fidelity(figures: Figures | None) -> dict[str, float]:
    if figures is None:
        return {}
    columns: dict[str, float] = {"images": len(figures.victims)}
    for metric, values in figures.values.items():
        columns[metric], columns[f"{metric}_low"], columns[f"{metric}_high"] = mean_interval(values)
    return columns


def _one_line(text: str, width: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."


def _sorted(board: pd.DataFrame) -> pd.DataFrame:
    """Settings by accuracy and worst-case leakage; in one the worst case, then attacks, closest first."""
    strength = board["threat_model"].map({name: rank for rank, name in enumerate(reversed(THREAT_MODELS))})
    setting = [*board.columns[:5], "seed"]
    heads = board[board["attack"] == WORST_CASE].assign(strength=strength).sort_values("strength")
    heads = heads.drop_duplicates(setting)
    heads = heads.assign(by_accuracy=-heads["accuracy"], by_leak=heads["leakage"].fillna(heads["ssim"]))
    keyed = board.assign(strength=strength, is_cell=board["attack"] != WORST_CASE, by_ssim=-board["ssim"])
    keyed = keyed.merge(heads[[*setting, "by_accuracy", "by_leak"]], on=setting, how="left")
    order = [
        "dataset",
        "backbone",
        "split_point",
        "by_accuracy",
        "by_leak",
        "defense",
        "defense_args",
        "seed",
    ]
    order += ["is_cell", "strength", "by_ssim", "attack", "cell"]
    return keyed.sort_values(order, kind="stable", na_position="last")[list(COLUMNS)].reset_index(drop=True)


def load_records(run_dir: Path | str) -> pd.DataFrame:
    """Per-image figures of a run: one row per cell and victim; a failed cell is one row without figures.

    Columns: those that name the row, `status`, `error`, `cell`, `floor`, `accuracy` of the defense, `victim`
    (its place), `victim_hash`, `correct` (top-1 on it), `mse`, `psnr_db` (at most 100), `ssim`, `lpips`.

    Raises:
        DpbenchError: not a run directory, or a record in it cannot be read.
    """
    rows: list[dict[str, Any]] = []
    for cell in _cells(newest_records([Path(run_dir)])):
        record = cell.record
        shared = cell.name.columns() | {
            "status": record.status,
            "error": record.error or "",
            "cell": record.id,
        }
        shared |= {"floor": record.floor, "accuracy": record.utility.accuracy if record.utility else np.nan}
        if cell.figures is None:
            rows.append(shared)
            continue
        correct = record.utility.correct if record.utility else []
        for index, victim in enumerate(cell.figures.victims):
            own = {metric: float(array[index]) for metric, array in cell.figures.values.items()}
            seen = {"correct": correct[index]} if index < len(correct) else {}
            rows.append(shared | {"victim": index, "victim_hash": victim} | seen | own)
    columns = [
        *COLUMNS[:9],
        "error",
        "cell",
        "floor",
        "accuracy",
        "victim",
        "victim_hash",
        "correct",
        *METRICS,
    ]
    frame = pd.DataFrame(rows).reindex(columns=columns)
    return frame.astype({"victim": "Int64", "correct": "boolean"} | dict.fromkeys(METRICS, "float64"))
