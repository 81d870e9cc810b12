"""The columns of a board, and boards as files: .csv to derive and diff, .md, .html and .tex to read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from dpbench.errors import DpbenchError

DECIMALS = {
    "accuracy": 4,
    "accuracy_drop": 4,
    "ssim": 4,
    "ssim_low": 4,
    "ssim_high": 4,
    "psnr_db": 3,
    "psnr_db_low": 3,
    "psnr_db_high": 3,
    "lpips": 4,
    "lpips_low": 4,
    "lpips_high": 4,
    "mse": 6,
    "seconds": 1,
    "accuracy_low": 4,
    "accuracy_high": 4,
    "leakage": 4,
}
"""Decimals of every figure: fixed, so that the same records give the same bytes."""

KEY = ("dataset", "backbone", "split_point", "defense", "defense_args", "attack", "threat_model", "seed")
"""What names a row."""

COLUMNS = (*KEY, "status", "images", *DECIMALS, "error", "cell")
"""Every column, in order; documented in leaderboards/README.md."""

COUNTS = ("seed", "images")
TEXT = tuple(column for column in COLUMNS if column not in DECIMALS and column not in COUNTS)

WORST_CASE = "worst-case"
"""What the `attack` column says in the row that takes the best reconstruction per image."""


def tidy(board: pd.DataFrame) -> pd.DataFrame:
    """Columns in order, with their types, figures rounded to the decimals that are written."""
    board = board.reindex(columns=list(COLUMNS)).reset_index(drop=True)
    for column in TEXT:
        board[column] = board[column].astype(object).where(board[column].notna(), "").astype(str)
    for column in COUNTS:
        board[column] = board[column].astype("Int64")  # nullable: a failed cell scored no images
    for column, decimals in DECIMALS.items():
        board[column] = board[column].astype("float64").round(decimals) + 0.0  # + 0.0: no -0.0000
    return board


def _text(value: float, decimals: int) -> str:
    return "" if np.isnan(value) else f"{value:.{decimals}f}"


def as_text(board: pd.DataFrame) -> pd.DataFrame:
    """Every value as the text that is written: fixed decimals, empty for what is not there."""
    shown = board.astype(object)
    for column, decimals in DECIMALS.items():
        shown[column] = [_text(float(value), decimals) for value in board[column]]
    shown["images"] = ["" if pd.isna(value) else str(value) for value in board["images"]]
    return shown.astype(str)


def _readable(board: pd.DataFrame) -> pd.DataFrame:
    """The columns that fit a page: one for each figure, with its interval in brackets."""
    text = as_text(board)
    page = text[["dataset", "backbone", "split_point"]].copy()
    page["defense"] = (text["defense"] + " " + text["defense_args"]).str.strip()
    for column in ("attack", "threat_model", "seed", "images"):
        page[column] = text[column]
    page["accuracy"] = _with_interval(text, "accuracy")
    page["drop"] = text["accuracy_drop"]
    for metric in ("ssim", "psnr_db", "lpips"):
        page[metric] = _with_interval(text, metric)
    page["leakage"] = text["leakage"]
    page["status"] = [
        status if not error else f"{status}: {error}"
        for status, error in zip(text["status"], text["error"], strict=True)
    ]
    return page.astype(str)


def _with_interval(text: pd.DataFrame, metric: str) -> list[str]:
    parts = zip(text[metric], text[f"{metric}_low"], text[f"{metric}_high"], strict=True)
    return [f"{mean} [{low}, {high}]" if mean else "" for mean, low, high in parts]


def _csv(board: pd.DataFrame) -> str:
    return str(as_text(board).to_csv(index=False, lineterminator="\n"))


def _markdown(board: pd.DataFrame) -> str:
    page = _readable(board)
    for column in page.columns:
        for mark, escaped in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("*", "\\*"), ("`", "\\`")):
            page[column] = page[column].str.replace(mark, escaped, regex=False)
    return str(page.to_markdown(index=False, disable_numparse=True)) + "\n"


def _html(board: pd.DataFrame) -> str:
    table = as_text(board).to_html(index=False, escape=True, border=0)
    head = '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>dpbench leaderboard</title>\n'
    style = "<style>td, th { padding: 0 .6em; text-align: left; white-space: nowrap }</style>\n"
    return f"{head}{style}{table}\n</html>\n"


def _latex(board: pd.DataFrame) -> str:
    return "% needs \\usepackage{booktabs}\n" + str(_readable(board).to_latex(index=False, escape=True))


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


def read_board(path: Path) -> pd.DataFrame:
    """A board from its CSV file.

    Raises:
        DpbenchError: no such file, not a CSV file, columns missing (named), or text where a figure belongs.
    """
    try:
        raw = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DpbenchError(f"board {path} cannot be read: {reason}; expected a .csv board") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DpbenchError(
            f"board {path} is not a CSV table: {str(error).strip()}; write one with "
            "`dpbench leaderboard DIR --output FILE.csv`"
        ) from error
    missing = [column for column in COLUMNS if column not in raw.columns]
    if missing:
        raise DpbenchError(
            f"board {path} lacks the columns {', '.join(missing)}; write it again with "
            "`dpbench leaderboard DIR --output FILE.csv`"
        )
    for column in (*COUNTS, *DECIMALS):
        numbers = pd.to_numeric(raw[column].replace("", np.nan), errors="coerce").astype("float64")
        optional = column != "seed"
        bad = ~np.isfinite(numbers) & ~(optional & (raw[column] == ""))
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise DpbenchError(
                f"board {path}, data row {first + 1}: {column} is {raw[column].iloc[first]!r}; expected a number"
            )
        raw[column] = numbers.round() if column in COUNTS else numbers
    return tidy(raw)
