"""Names and errors that strangers wrote, on boards that others open."""

import csv

import pytest
from record_factory import make_record

from dpbench.board.files import read_board, write_board
from dpbench.board.leaderboard import build_board

FORMULA = "=HYPERLINK(0)"


@pytest.fixture(name="board", scope="module")
def board_fixture():
    return build_board([make_record(attack="decoder"), make_record(attack="gan", failed=FORMULA)])


def test_an_error_is_no_formula_in_a_spreadsheet_and_is_read_as_it_was(board, tmp_path):
    write_board(board, tmp_path / "board.csv")
    with (tmp_path / "board.csv").open(encoding="utf-8", newline="") as file:
        errors = [row["error"] for row in csv.DictReader(file)]
    assert f"'{FORMULA}" in errors
    assert FORMULA not in errors
    assert read_board(tmp_path / "board.csv").equals(board)


def test_an_error_makes_no_cells_and_no_links_in_markdown(tmp_path):
    board = build_board([make_record(attack="gan", failed="a\\|b ![x](http://example.org)")])
    write_board(board, tmp_path / "board.md")
    text = (tmp_path / "board.md").read_text(encoding="utf-8")
    assert "a\\\\\\|b ![x]\\(http://example.org)" in text
