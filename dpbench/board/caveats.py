"""What the figures of a board do not say by themselves, in words: below tables, boards and plots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from dpbench.board.columns import FLOOR, WORST_CASE
from dpbench.board.leakage import TRAINED_ON
from dpbench.contract.threat import UNDEFENDED
from dpbench.metrics.table import CALIBRATED, label_of

NO_PRIVACY = "leakage 0 is the floor of the picture metrics, not privacy: read re-identification beside it"

NO_LINK = "whoever holds the photograph among candidates need not reconstruct it: comparing releases names it"

ONE_SEED = (
    "intervals of a single seed leave out the randomness of training: the same attack, trained again, moves SSIM by "
    "up to 0.03 to 0.08"
)

NOT_CONVERGED = {False: "the attack did not converge", True: "a static attack that did not converge"}
"""Is the row of the static tier? -> what is said of it: an attacker who does not know the defense may well fail."""

LOW = 0.1
"""Leakage below this looks like none: readers are told where victims are re-identified all the same."""

Called = Mapping[tuple[str, str], str]
"""Defense and its parameters -> those by which it is called; of what follows, None: all."""

SCOPE = ["dataset", "backbone", "split_point", "seed", "origin"]


def recognised(board: pd.DataFrame) -> pd.Series[bool]:
    """Rows whose pictures are as good as the floor and name their victims all the same: leakage is not all there is.

    That is, leakage below `LOW`, and re-identification above that of the floor (of chance, where there is none) by
    more than both intervals.
    """
    floors = board[board["attack"] == FLOOR].drop_duplicates(SCOPE).set_index(SCOPE)["reid_top1_high"]
    keys = pd.MultiIndex.from_frame(board[SCOPE])
    known = pd.Series(floors.reindex(keys).to_numpy(), index=board.index, dtype="float64")
    return (board["leakage"] < LOW) & (board["reid_top1_low"] > known.fillna(board["reid_chance"]))


def not_converged(row: Mapping[Any, Any]) -> str:
    """What to say of a row whose attack, or every attack of a worst case, says that it did not converge; else empty."""
    if row["converged"] != "no":
        return ""
    return NOT_CONVERGED[row["threat_model"] == "static"]


def metrics_of(label: str) -> tuple[str, ...]:
    """The metrics that `leakage_metrics` names."""
    return tuple(label.removesuffix(TRAINED_ON).split())


def made_of(label: str) -> str:
    """`SSIM and PSNR, without LPIPS` for `ssim psnr_db`."""
    metrics = metrics_of(label)
    without = [label_of(metric) for metric in CALIBRATED if metric not in metrics]
    named = _listed([label_of(metric) for metric in metrics])
    trained = ", all of which the defense says it was trained on" if label.endswith(TRAINED_ON) else ""
    return f"{named}{f', without {_listed(without)}' if without else ''}{trained}"


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def leakage_lines(rows: pd.DataFrame, called: Called | None = None) -> list[str]:
    """What leakage of these rows is made of, where that is not all metrics, or not the same for all of them."""
    if "leakage_metrics" not in rows:
        return []
    having = rows[rows["leakage"].notna() & (rows["leakage_metrics"] != "")]
    labels = list(dict.fromkeys(having["leakage_metrics"]))
    if labels in ([], [" ".join(CALIBRATED)]):
        return []
    lines = []
    for label in labels:
        settings = dict.fromkeys(
            _setting(row, called) for row in having[having["leakage_metrics"] == label].to_dict("records")
        )
        whose = f" of {'; '.join(settings)}" if len(labels) > 1 else ""
        lines.append(f"leakage{whose}: from {made_of(label)}; compare it with leakage from the same metrics only")
    return lines


def recognised_line(rows: pd.DataFrame, called: Called | None = None) -> str:
    """Which of these rows hide the picture and not who it is; empty where none does."""
    found = rows[recognised(rows) & (rows["attack"] == WORST_CASE) & (rows["defense"] != UNDEFENDED)]
    if found.empty:
        return ""
    named = [
        f"{_setting(row, called)} ({granted(row)}) {row['leakage']:.2f} and {row['reid_top1']:.0%}"
        for row in found.to_dict("records")
    ]
    return f"{NO_PRIVACY}. Hardly any leakage, and re-identified: {'; '.join(named)}"


def linked_line(rows: pd.DataFrame, called: Called | None = None) -> str:
    """Which of these rows hide the picture and not which one it is; empty where none does."""
    if "link_top1" not in rows:
        return ""
    held = (rows["attack"] == WORST_CASE) & (rows["defense"] != UNDEFENDED) & (rows["leakage"] < LOW)
    found = rows[held & (rows["link_top1_low"] > rows["link_chance"])]
    if found.empty:
        return ""
    named = [f"{_setting(row, called)} ({granted(row)}) {row['link_top1']:.0%}" for row in found.to_dict("records")]
    return f"{NO_LINK}. Hardly any leakage, and named: {'; '.join(named)}"


def _setting(row: Mapping[Any, Any], called: Called | None) -> str:
    defense, arguments = row["defense"], row["defense_args"]
    return f"{defense} {(called or {}).get((defense, arguments), arguments)}".strip()


def granted(row: Mapping[Any, Any]) -> str:
    """What the attacker of a row is granted, in words: `weights`, `query shifted releases=4`."""
    words = [row["threat_model"], *(["shifted"] if row["auxiliary"] == "shifted" else [])]
    words += [f"releases={row['releases']}"] if row["releases"] > 1 else []
    return " ".join([*words, *(["server trusted"] if row.get("server") == "trusted" else [])])


def caveats(board: pd.DataFrame) -> list[str]:
    """What to say below a board that shows all its rows with intervals."""
    lines = []
    if board["leakage"].notna().any():
        lines.append(f"{NO_PRIVACY}. Rows with leakage below {LOW} whose victims are re-identified say so in `status`")
        lines += leakage_lines(board)
    if (board["seed"] != "all").any():
        lines.append(ONE_SEED)
    return [f"{line[0].upper()}{line[1:]}." for line in lines]
