"""Attacks and metrics that are called as the table's own columns, or as rows that boards derive."""

import io

import pytest
from record_factory import make_record
from rich.console import Console

from dpbench.board.columns import FLOOR, WORST_CASE
from dpbench.board.leaderboard import build_board
from dpbench.contract.attack import Attack
from dpbench.errors import DpbenchError
from dpbench.reporting.table import print_table


def printed(*attacks):
    board = build_board([make_record(attack=attack, ssim=0.4, reid_rank=0) for attack in attacks])
    text = io.StringIO()
    print_table(board, Console(file=text, width=200))
    return board, text.getvalue()


def test_an_attack_has_a_column_of_its_own_whatever_it_is_called():
    board, text = printed("leakage", "worst", "drop", "top-1", "defense", "re-id", "decoder")
    assert text.count("0.40") == 8  # seven attacks and their worst case
    assert text.count("(attack)") == 6
    assert len(board) == 8


@pytest.mark.parametrize("name", [WORST_CASE, FLOOR])
def test_no_attack_passes_for_a_row_that_is_derived(name):
    board, _ = printed(name, "decoder")
    assert (board["attack"] == WORST_CASE).sum() == 1
    assert (board["attack"] == FLOOR).sum() == 0
    assert f"{name} (attack)" in set(board["attack"])
    with pytest.raises(DpbenchError, match=f"the name of Mine is '{name}', which boards call rows that are made of"):
        type("Mine", (Attack,), {"name": name, "reconstruct": lambda self, seen, *, generator: None})
