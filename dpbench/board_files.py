"""The columns of a board, and boards as files: .csv to derive and diff, .md, .html and .tex to read."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dpbench.errors import DpbenchError
from dpbench.shown_text import LIMIT, clean

KEY = (
    "dataset",
    "backbone",
    "split_point",
    "defense",
    "defense_args",
    "attack",
    "threat_model",
    "auxiliary",
    "releases",
    "budget",
    "seed",
)
"""What names a row, beside its `server`: see `row_key`."""

MEANS = {
    "accuracy": 4,
    "accuracy_top5": 4,
    "accuracy_drop": 4,
    "ssim": 4,
    "psnr_db": 3,
    "lpips": 4,
    "mse": 6,
    "reid_top1": 4,
    "reid_top5": 4,
    "identity_top1": 4,
    "label_read": 4,
    "leakage": 4,
    "leakage_ssim": 4,
    "leakage_psnr_db": 4,
    "leakage_lpips": 4,
    "mse_bound": 6,
}
"""Decimals of the figures that are means over images; each has an interval."""

OTHERS = {
    "accuracy_spread": 4,
    "ssim_spread": 4,
    "leakage_spread": 4,
    "reid_chance": 4,
    "identity_chance": 4,
    "judge_accuracy": 4,
    "epsilon": 3,
    "delta": 8,
    "seconds": 1,
}

DECIMALS = {f"{column}{end}": n for column, n in MEANS.items() for end in ("", "_low", "_high")} | OTHERS
"""Decimals of every figure: fixed, so that the same records give the same bytes."""

COUNTS = ("releases", "images", "leakage_images", "release_bits")

ORDER = (
    *KEY,
    *("server", "status", "images", "ensemble", "headline", "converged"),
    *DECIMALS,
    *("release_bits", "leakage_metrics", "leakage_images", "trained_on", "tied", "origin", "error", "cell"),
)

WHERE_ASKED = (
    "server",
    "headline",
    *("leakage_metrics", "leakage_images"),
    *("accuracy_top5", "accuracy_top5_low", "accuracy_top5_high"),
    *("identity_top1", "identity_top1_low", "identity_top1_high", "identity_chance"),
)
"""Columns that only those boards have in which they are not empty: the others stay what they were, byte for byte."""

COLUMNS = tuple(column for column in ORDER if column not in WHERE_ASKED)
"""The columns of every board, in order; documented in leaderboards/README.md, as are those `WHERE_ASKED`."""

DEFAULT_HEADLINE = "leakage"
"""What a board is about where its column `headline` names nothing else."""

TEXT = tuple(column for column in ORDER if column not in DECIMALS and column not in COUNTS)

GUARANTEES = ("mse_bound", "epsilon", "delta")

WORST_CASE = "worst-case"
"""What the `attack` column says in the row that takes the best reconstruction per image."""

FLOOR = "floor"
"""What it says in the row that takes the best guess per image: the zero of the scale."""


def row_key(values: Mapping[str, Any]) -> tuple[str, ...]:
    """What a row of any board is matched by: `KEY`, then its `server`, empty where a board has no such column."""
    server = values.get("server", "")
    return *(str(values[column]) for column in KEY), server if server == "trusted" else ""


def same_leakage(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether leakage means the same in two rows: only then may it be compared, and each of its parts.

    Rows say of which metrics it is made. Rows of older boards do not, and have another scale than those that do; two
    of them are alike where both or neither have LPIPS.
    """
    made_of = [str(row.get("leakage_metrics", "") or "") for row in (one, other)]
    made_of = ["" if label == "nan" else label for label in made_of]
    if made_of == ["", ""]:
        return bool(pd.isna(one["lpips"]) == pd.isna(other["lpips"]))
    return made_of[0] == made_of[1]


def headline_of(board: pd.DataFrame) -> str:
    """The column that a board is about; the default where its rows do not agree."""
    named = set(board["headline"]) if "headline" in board else set()
    return str(named.pop()) if len(named) == 1 else DEFAULT_HEADLINE


def tidy(board: pd.DataFrame) -> pd.DataFrame:
    """Columns in order, with their types, figures rounded to the decimals that are written."""
    filled = board.columns[(board.notna() & (board != "")).any()]
    columns = [column for column in ORDER if column in COLUMNS or column in filled]
    board = board.reindex(columns=columns).reset_index(drop=True)
    for column in columns:
        if column in TEXT:
            board[column] = board[column].astype(object).where(board[column].notna(), "").astype(str)
        elif column in COUNTS:
            board[column] = board[column].astype("Int64")  # nullable: a failed cell scored no images
        else:
            decimals = DECIMALS[column]
            figures = board[column].astype("float64").replace([np.inf, -np.inf], np.nan)
            board[column] = figures.round(decimals) + 0.0  # + 0.0: no -0.0000
    return board


def _text(value: float, decimals: int) -> str:
    return "" if np.isnan(value) else f"{value:.{decimals}f}"


def as_text(board: pd.DataFrame) -> pd.DataFrame:
    """Every value as the text that is written: fixed decimals, empty for what is not there."""
    shown = board.astype(object)
    for column in (column for column in board if column in DECIMALS):
        shown[column] = [_text(float(value), DECIMALS[column]) for value in board[column]]
    for column in (column for column in board if column in COUNTS):
        shown[column] = ["" if pd.isna(value) else str(value) for value in board[column]]
    return shown.astype(str)


def _to_read(board: pd.DataFrame) -> pd.DataFrame:
    """As text that says what not every reader knows: guarantees that cannot exist, and what a status does not tell."""
    from dpbench.caveats import not_converged, recognised  # it brings torch, which reading a board does not need

    text = as_text(board)
    for column in GUARANTEES:
        text[column] = text[column].where((text[column] != "") | (text["status"] == "failed"), "n/a")
    found = recognised(board)
    for place, row in zip(board.index, board.to_dict("records"), strict=True):
        known = "victims re-identified all the same" if found[place] else ""
        text.loc[place, "status"] = "; ".join(filter(None, [row["status"], not_converged(row), known]))
    return text


def _readable(board: pd.DataFrame) -> pd.DataFrame:
    """The columns that fit a page: one for each figure, with its interval in brackets."""
    text = _to_read(board)
    page = text[["dataset", "backbone", "split_point"]].copy()
    page["defense"] = (text["defense"] + " " + text["defense_args"]).str.strip()
    for column in ("attack", "threat_model", "auxiliary", "releases", "budget", "server", "seed", "images"):
        if column in text:
            page[column] = text[column]
    page["accuracy"] = _with_interval(text, "accuracy")
    page["drop"] = text["accuracy_drop"]
    for metric in ("ssim", "psnr_db", "lpips", "reid_top1", "identity_top1", "label_read", "leakage"):
        if metric not in text:
            continue
        page[metric] = _with_interval(text, metric)
    if "leakage_metrics" in text:
        page["leakage_metrics"] = text["leakage_metrics"]
    page["mse_bound"] = text["mse_bound"]
    page["epsilon"] = [
        f"{epsilon} (delta {float(delta):g})" if delta not in ("", "n/a") else epsilon
        for epsilon, delta in zip(text["epsilon"], text["delta"], strict=True)
    ]
    page["ensemble"] = text["ensemble"]
    page["tied"] = text["tied"]
    page["origin"] = text["origin"]
    page["status"] = [
        status if not error else f"{status}: {error}"
        for status, error in zip(text["status"], text["error"], strict=True)
    ]
    return page.astype(str).map(lambda text: clean(text, 2 * LIMIT))


def _with_interval(text: pd.DataFrame, metric: str) -> list[str]:
    parts = zip(text[metric], text[f"{metric}_low"], text[f"{metric}_high"], strict=True)
    return [f"{mean} [{low}, {high}]" if mean and low else mean for mean, low, high in parts]


def _csv(board: pd.DataFrame) -> str:
    return str(as_text(board).to_csv(index=False, lineterminator="\n"))


def _markdown(board: pd.DataFrame) -> str:
    page = _readable(board)
    for column in page.columns:
        for mark, escaped in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("*", "\\*"), ("`", "\\`")):
            page[column] = page[column].str.replace(mark, escaped, regex=False)
    table = str(page.to_markdown(index=False, disable_numparse=True))
    return "\n\n".join([table, *_caveats(board)]) + "\n"


def _html(board: pd.DataFrame) -> str:
    table = _to_read(board).map(lambda text: clean(text, 2 * LIMIT)).to_html(index=False, escape=True, border=0)
    head = '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>dpbench leaderboard</title>\n'
    style = "<style>td, th { padding: 0 .6em; text-align: left; white-space: nowrap }</style>\n"
    notes = "".join(f"<p>{html.escape(line)}</p>\n" for line in _caveats(board))
    return f"{head}{style}{table}\n{notes}</html>\n"


def _latex(board: pd.DataFrame) -> str:
    table = "% needs \\usepackage{booktabs}\n" + str(_readable(board).to_latex(index=False, escape=True))
    return table + "".join(f"% {line}\n" for line in _caveats(board))


def _caveats(board: pd.DataFrame) -> list[str]:
    from dpbench.caveats import caveats  # as above

    return caveats(board)


_WRITERS = {".csv": _csv, ".md": _markdown, ".html": _html, ".tex": _latex}


def write_board(board: pd.DataFrame, path: Path) -> None:
    """Write a board in the format that the ending names: .csv, .md, .html or .tex; whole, or not at all.

    Raises:
        DpbenchError: another ending, or the disk does not take the file.
    """
    from dpbench.store import write_atomically  # it brings torch, which reading a board does not need

    render = _WRITERS.get(path.suffix.lower())
    if render is None:
        raise DpbenchError(
            f"{path.name}: a board ends in {', '.join(_WRITERS)}, not in {path.suffix or 'no ending'!r}; "
            "choose one of these endings"
        )
    text = render(board)
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8", newline="\n"))
