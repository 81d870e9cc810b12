"""The transfer matrix: how far an attack prepared on one fit of a defense gets against another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from dpbench.metrics.intervals import mean_interval
from dpbench.protocols.sharing.records import SharingRecord
from dpbench.protocols.sharing.units import Transferred
from dpbench.reporting.plots.plot_style import label_for
from dpbench.suite.names import arguments_text, plugin_names, short_name

COLUMNS = (
    *("dataset", "backbone", "split_point", "receiver", "sender", "defense", "defense_args", "attack"),
    "seed",
    *("prepared_on", "judged_on", "status", "victims"),
    *("ssim", "ssim_low", "ssim_high", "psnr_db", "lpips", "reid_top1", "error"),
)


def build_transfer(records: Iterable[SharingRecord]) -> pd.DataFrame:
    """One row for each pair: columns as in dpbench/guide/sharing-features.md, figures rounded.

    `prepared_on` holds the fits that the attacker could query, `judged_on` the one that released the victims'
    features. Where they are the same fit, this is the tier `query`; `1+2` judged on 0 is leave-one-out.
    """
    rows = []
    found = [(record, record.unit) for record in records if isinstance(record.unit, Transferred)]
    called = plugin_names(spec for _, unit in found for spec in (unit.defense, unit.attack))
    for record, unit in found:
        row = {
            "dataset": short_name(unit.world.dataset.name),
            "backbone": unit.world.backbone.name,
            "split_point": unit.world.split_point,
            "receiver": unit.receiver,
            "sender": unit.sender,
            "defense": called[unit.defense.name, unit.defense.source],
            "defense_args": arguments_text(unit.defense.shown_arguments),
            "attack": called[unit.attack.name, unit.attack.source],
            "seed": unit.world.seed,
            "prepared_on": "+".join(map(str, unit.prepared_on)),
            "judged_on": unit.judged_on,
            "status": record.status,
            "error": record.error or "",
            "victims": len(record.victims),
        }
        for metric in ("ssim", "psnr_db", "lpips"):
            if metric in record.fidelity:
                row[metric] = float(np.mean(record.fidelity[metric]))
        if "ssim" in record.fidelity:
            _, row["ssim_low"], row["ssim_high"] = mean_interval(np.asarray(record.fidelity["ssim"]))
        if record.recognition is not None:
            row["reid_top1"] = float(np.mean([rank == 0 for rank in record.recognition.reid_rank]))
        rows.append(row)
    board = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    figures = {"ssim": 4, "ssim_low": 4, "ssim_high": 4, "psnr_db": 2, "lpips": 4, "reid_top1": 4}
    for column, decimals in figures.items():
        board[column] = board[column].astype(float).round(decimals) + 0.0
    several = board["prepared_on"].astype(str).str.contains("+", regex=False)
    key = [*COLUMNS[: COLUMNS.index("seed") + 1], "several", "prepared_on", "judged_on"]
    return board.assign(several=several).sort_values(key)[list(COLUMNS)].reset_index(drop=True)


def matrices(transfer: pd.DataFrame) -> Iterator[tuple[str, dict[str, pd.DataFrame]]]:
    """In words who attacks what, and metric (`ssim`, `reid_top1`) -> matrix; of each attack on a sender's defense.

    A row is what the attacker could query, a column what released the victims' features; seeds are averaged. Attacks
    that failed are left out.
    """
    finished = transfer[transfer["ssim"].notna()]
    who = list(COLUMNS[: COLUMNS.index("seed")])
    several = {name for name in who if finished[name].nunique() > 1}
    for names, rows in finished.groupby(who, sort=False):
        said = dict(zip(who, (str(name) for name in names), strict=True))
        defense = label_for(transfer, said["defense"])
        words = [said["attack"], "on", defense, *([said["defense_args"]] if "defense_args" in several else [])]
        words += [said[name] for name in ("dataset", "backbone", "split_point") if name in several]
        if several & {"receiver", "sender"}:
            words += ["by", said["receiver"], "on", said["sender"]]
        prepared = list(dict.fromkeys(rows["prepared_on"]))
        yield " ".join(words), {metric: _matrix(rows, metric, prepared) for metric in ("ssim", "reid_top1")}


def _matrix(rows: pd.DataFrame, metric: str, prepared: list[str]) -> pd.DataFrame:
    cells = rows.pivot_table(index="prepared_on", columns="judged_on", values=metric, dropna=False).reindex(prepared)
    cells.index = pd.Index([f"fit {name.replace('+', ' and ')}" for name in prepared])
    cells.columns = pd.Index([f"fit {fit}" for fit in cells.columns])
    return cells
