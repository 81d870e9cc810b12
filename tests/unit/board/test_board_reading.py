"""Boards as people have them: through spreadsheets, editors and half a download."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from record_factory import make_grid, make_record

from dpbench.board.columns import COLUMNS
from dpbench.board.files import read_board, write_board
from dpbench.board.leaderboard import build_board
from dpbench.errors import DpbenchError

BOARDS = Path(__file__).parents[3] / "leaderboards"


@pytest.fixture(name="board", scope="module")
def board_fixture() -> pd.DataFrame:
    return build_board([*make_grid(6, split_points=("layer1",)), make_record(attack="gan", failed="it; broke, badly")])


@pytest.fixture(name="text")
def text_fixture(board: pd.DataFrame, tmp_path: Path) -> str:
    write_board(board, tmp_path / "board.csv")
    return (tmp_path / "board.csv").read_text(encoding="utf-8")


def frame(text: str) -> pd.DataFrame:
    return pd.read_csv(StringIO(text), dtype=str, keep_default_na=False)


def with_semicolons(text: str, comma: bool) -> str:
    table = frame(text)
    if comma:
        figures = [column for column in table if table[column].str.fullmatch(r"-?\d+\.\d+|").all()]
        table[figures] = table[figures].apply(lambda values: values.str.replace(".", ","))
    return str(table.to_csv(index=False, sep=";"))


def edited(text: str, **columns: Callable[[pd.Series[str]], pd.Series[str]]) -> str:
    table = frame(text)
    for column, edit in columns.items():
        table[column] = edit(table[column])
    return str(table.to_csv(index=False))


SAME: dict[str, Callable[[str], str]] = {
    "semicolons": lambda text: with_semicolons(text, comma=False),
    "decimal commas": lambda text: with_semicolons(text, comma=True),
    "tabs": lambda text: str(frame(text).to_csv(index=False, sep="\t")),
    "Excel's first line": lambda text: "sep=;\r\n" + with_semicolons(text, comma=True),
    "byte order mark": lambda text: "\ufeff" + text,
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "quoted": lambda text: str(frame(text).to_csv(index=False, quoting=1)),
    "spaces": lambda text: re.sub(",(?! )", " , ", text),  # those before a space are inside quotes
    "other order": lambda text: str(frame(text)[sorted(frame(text).columns)].to_csv(index=False)),
    "own columns": lambda text: str(frame(text).assign(comment="mine, and more").to_csv(index=False)),
    "capitals": lambda text: text.split("\n", 1)[0].upper() + "\n" + text.split("\n", 1)[1],
    "empty lines": lambda text: text.replace("\n", "\n\n") + "\n \n",
    "lines of separators": lambda text: text + "," * (len(COLUMNS) - 1) + "\n",
    "longer lines": lambda text: text.replace("\n", ",,\n"),
    "no last line break": lambda text: text.rstrip("\n"),
    "seed as a measurement": lambda text: edited(text, seed=lambda seeds: seeds + ".0"),
    "status in capitals": lambda text: edited(text, status=lambda words: " " + words.str.upper() + " "),
    "NaN in words": lambda text: edited(text, epsilon=lambda figures: figures.replace("", "NaN")),
    "counts as measurements": lambda text: edited(text, releases=lambda counts: counts + ".0"),
}


@pytest.mark.parametrize("how", SAME)
def test_the_same_board(board: pd.DataFrame, text: str, tmp_path: Path, how: str) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text(SAME[how](text), encoding="utf-8", newline="")
    pd.testing.assert_frame_equal(read_board(path), board)


def test_utf_16(board: pd.DataFrame, text: str, tmp_path: Path) -> None:
    (tmp_path / "theirs.csv").write_text(with_semicolons(text, comma=True), encoding="utf-16")
    pd.testing.assert_frame_equal(read_board(tmp_path / "theirs.csv"), board)


def first(value: str) -> Callable[[pd.Series[str]], pd.Series[str]]:
    return lambda values: pd.Series([value, *values[1:]], index=values.index)


REFUSED: dict[str, tuple[Callable[[str], str], str]] = {
    "SSIM of 28.5": (lambda text: edited(text, ssim=first("28.5")), r"data row 1: ssim is 28\.5, .* between -1 and 1"),
    "PSNR": (lambda text: edited(text, psnr_db=first("-3")), "data row 1: psnr_db is -3, .* between 0 and 100"),
    "LPIPS": (lambda text: edited(text, lpips=first("-0.1")), r"data row 1: lpips is -0\.1, .* between 0 and 10"),
    "MSE": (lambda text: edited(text, mse=first("-1")), "data row 1: mse is -1, .* between 0 and 1"),
    "accuracy in percent": (
        lambda text: edited(text, accuracy=first("69.9")),
        r"accuracy is 69\.9, .* between 0 and 1",
    ),
    "leakage": (lambda text: edited(text, leakage=first("1.5")), r"leakage is 1\.5, .* between 0 and 1"),
    "rate": (lambda text: edited(text, reid_top1=first("2")), "reid_top1 is 2, .* between 0 and 1"),
    "interval": (lambda text: edited(text, ssim_high=first("1.2")), r"ssim_high is 1\.2"),
    "outside its interval": (
        lambda text: edited(text, ssim=first("0.9"), ssim_low=first("0.1"), ssim_high=first("0.2")),
        r"data row 1: ssim is 0\.9, outside its interval \[0\.1, 0\.2\]",
    ),
    "emptied": (lambda text: edited(text, ssim=first("")), r"data row 1: ssim is empty beside its interval"),
    "half an image": (lambda text: edited(text, images=first("2.5")), r"images is 2\.5, .* a whole number"),
    "fewer than none": (lambda text: edited(text, images=first("-6")), "images is -6"),
    "no release": (lambda text: edited(text, releases=first("0")), "releases is 0, .* at least 1"),
    "infinite": (lambda text: edited(text, seconds=first("inf")), "seconds is 'inf'; expected a number"),
    "1e999": (lambda text: edited(text, seconds=first("1e999")), "seconds is '1e999'; expected a number"),
    "thousands": (lambda text: edited(text, seconds=first("1,234")), "seconds is '1,234'; expected a number"),
    "percent": (lambda text: edited(text, accuracy=first("69.9%")), "accuracy is '69.9%'; expected a number"),
    "cut short": (lambda text: text[: text.rstrip("\n").rindex("\n") + 60], "of 73 values; it is cut short"),
    "cut in quotes": (lambda text: text.replace(",gaussian,", ',"gaussian,', 1), "not a CSV table"),
    "a value more": (lambda text: text.replace(",decoder,", ",decoder,x,", 1), "has 74 of 73 values"),
    "two of a name": (lambda text: text.replace("ssim_low", "ssim", 1), "two columns 'ssim'"),
    "empty": (lambda text: "\n\n", "it is empty"),
    "of another kind": (
        lambda text: (BOARDS / "sharing-cifar10.csv").read_text(encoding="utf-8"),
        "lacks the columns attack, threat_model",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_board_can_hold_is_refused_by_name(text: str, tmp_path: Path, what: str) -> None:
    edit, message = REFUSED[what]
    path = tmp_path / "theirs.csv"
    path.write_text(edit(text), encoding="utf-8")
    with pytest.raises(DpbenchError, match=message) as refused:
        read_board(path)
    assert len(str(refused.value)) < 300


def test_missing_columns_are_named_five_at_most(text: str, tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DpbenchError, match=r"lacks the columns dataset, .* and 66 more; write it again"):
        read_board(path)
    path.write_text(str(frame(text).drop(columns=["ssim", "lpips"]).to_csv(index=False)))
    with pytest.raises(DpbenchError, match="lacks the columns ssim, lpips; write it again"):
        read_board(path)


@pytest.mark.parametrize("name", ["quick", "cifar10", "faces", "vit", "imagenet", "depth"])
def test_published_boards_are_read(name: str) -> None:
    board = read_board(BOARDS / f"{name}.csv")
    assert len(board)
    assert board["ssim"].notna().all()
    assert np.isfinite(board["ssim"]).all()
