"""Boards in every form: what is written is what is read, and what cannot be read is one line."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from board_pages import written
from board_rows import DOCUMENTED
from record_factory import make_grid, make_record

from dpbench.api import load_records
from dpbench.board.columns import COLUMNS
from dpbench.board.files import read_board, write_board
from dpbench.board.leaderboard import build_board
from dpbench.errors import DpbenchError
from dpbench.records.store import CELLS


def test_no_records_make_an_empty_board(tmp_path: Path) -> None:
    board = build_board([])
    assert list(board.columns) == DOCUMENTED
    assert board.empty
    for ending in ("csv", "md", "html"):
        written(board, tmp_path / f"board.{ending}")
    assert read_board(tmp_path / "board.csv").empty


def test_formats(tmp_path: Path) -> None:
    records = [make_record(defense="a_b", defense_args={"p": "50%&<x>"}, lpips=0.25, psnr_db=20, mse=0.01)]
    records += [make_record(attack="gan", failed="it | broke at <layer>_1")]
    board = build_board(records)
    texts = {}
    for ending in ("csv", "md", "html"):
        texts[ending] = written(board, tmp_path / f"board.{ending}")
    figures = "0.5000,0.5000,0.5000,20.000,20.000,20.000,0.2500,0.2500,0.2500,0.010000,0.010000,0.010000"
    assert f",{figures}," in texts["csv"]
    assert "0.5000 [0.5000, 0.5000]" in texts["md"]
    assert "it \\| broke at &lt;layer>" in texts["md"]
    table, *notes = texts["md"].strip().split("\n\n")
    lines = table.splitlines()
    assert notes == ["Intervals of a single seed leave out" + note for note in [notes[0].partition(" leave out")[2]]]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    body = texts["html"].partition('<table id="cells"')[2].partition("</table>")[0]
    rows = [row.partition("</tr>")[0] for row in re.split(r"<tr\b", body)[1:]]
    assert [len(re.findall(r"<t[dh]\b", row)) for row in rows] == [len(COLUMNS)] * (len(board) + 1)
    assert "it | broke at &lt;layer&gt;_1" in body
    assert not list(tmp_path.glob(".*"))


def test_csv_reads_back(tmp_path: Path) -> None:
    board = build_board([*make_grid(6), make_record(attack="gan", failed="no")])
    write_board(board, tmp_path / "board.csv")
    pd.testing.assert_frame_equal(read_board(tmp_path / "board.csv"), board)


def test_unknown_ending(tmp_path: Path) -> None:
    with pytest.raises(DpbenchError, match=r"ends in \.csv, \.md, \.html, \.tex, not in '\.xlsx'"):
        write_board(build_board([make_record()]), tmp_path / "board.xlsx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"", "not a CSV table"),
        (b"\xff\xfe\x00binary", "cannot be read"),
        (b"a,b\n1,2\n", "lacks the columns dataset, backbone"),
        (b'a,b\n1,2,3,4\n5\n"', "not a CSV table"),
        ("text", "ssim is 'high'; expected a number"),
        ("releases", "releases is ''; expected a number"),
    ],
)
def test_unreadable_boards(tmp_path: Path, content: bytes | str | None, message: str) -> None:
    path = tmp_path / "board.csv"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        write_board(build_board([make_record(ssim=0.1234)]), path)
        old, new = {"text": (",0.1234,", ",high,"), "releases": (",same,1,", ",same,,")}[content]
        path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DpbenchError, match=message):
        read_board(path)


def test_load_records_is_one_row_per_cell_and_victim(tmp_path: Path) -> None:
    CELLS.write(
        tmp_path,
        make_record(
            ssim=[0.1, 0.2, 0.3, 0.4],
            mse=0.5,
            reid_rank=[0, 7, 1, 2],
            label_read=[True, False, True, True],
            victims=["c", "a", "b", "d"],
        ),
    )
    CELLS.write(tmp_path, make_record(attack="gan", failed="no"))
    frame = load_records(tmp_path)
    assert len(frame) == 5
    decoder = frame[frame.attack == "decoder"]
    assert list(decoder.ssim) == [0.1, 0.2, 0.3, 0.4]
    assert list(decoder.victim) == [0, 1, 2, 3]
    assert list(decoder.correct) == [True, True, True, False]
    assert decoder.lpips.isna().all()
    assert frame[frame.attack == "gan"].iloc[0].error == "no"
    assert list(decoder.reid_rank) == [0, 7, 1, 2]
    assert list(decoder.label_read) == [True, False, True, True]
    with pytest.raises(DpbenchError, match="not a run directory"):
        load_records(tmp_path / "nowhere")
