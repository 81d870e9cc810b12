"""Plug-ins of one name are told apart by where they come from, and one under several spellings is one."""

from __future__ import annotations

from typing import Any

import pytest
from board_rows import worst
from record_factory import make_record

from dpbench.board.columns import CELL_LAYOUT, WORST_CASE
from dpbench.board.leaderboard import build_board
from dpbench.records.record import Record

TEAMS = ("/home/me/team_a/defense.py:Mine", "/home/me/team_b/defense.py:Mine")


def test_two_files_of_one_name_are_two_defenses() -> None:
    """They once shared a worst case, and had an "all seeds" row that nobody ran."""
    records = [make_record(attack="mean-image", ssim=0.1), make_record(ssim=0.9)]
    for number, name in enumerate(TEAMS):
        records += [make_record(defense=name, defense_source=f"v1-{number}", ssim=0.3 - 0.15 * number)]
    board = build_board(records)
    assert worst(board, defense="team_a/defense.py:Mine").ssim == 0.3
    assert worst(board, defense="team_b/defense.py:Mine").ssim == 0.15
    assert set(board["seed"]) == {"0"}
    assert set(build_board(records[:-1])["defense"]) == {"none", "defense.py:Mine"}
    with_seeds = build_board([*records, make_record(defense=TEAMS[0], defense_source="v1-0", ssim=0.3, seed=1)])
    assert set(with_seeds[with_seeds["seed"] == "all"]["defense"]) == {"team_a/defense.py:Mine"}


def test_two_files_of_one_name_are_two_attacks() -> None:
    names = [name.replace("defense", "attack") for name in TEAMS]
    records = [make_record(attack=name, source=f"v1-{n}", ssim=0.3) for n, name in enumerate(names)]
    board = build_board([*records, make_record(ssim=0.9), make_record(attack="mean-image", ssim=0.1)])
    assert {"team_a/attack.py:Mine", "team_b/attack.py:Mine"} < set(board["attack"])
    assert worst(board).ensemble == "decoder, team_a/attack.py:Mine, team_b/attack.py:Mine"


@pytest.mark.parametrize("name", ["./mine.py:X", "sub/../mine.py:X", "/home/me/mine.py:X", "C:\\work\\mine.py:X"])
def test_one_file_under_several_spellings_is_one_plugin(name: str) -> None:
    def named(spelling: str, **more: Any) -> Record:
        return make_record(defense=spelling, defense_source="v1-0123456789ab", ssim=0.4, **more)

    board = build_board([named("mine.py:X"), named(name, created="2030")])
    assert list(board["attack"]) == [WORST_CASE, "decoder"]
    assert set(board["defense"]) == {"mine.py:X"}
    key = [CELL_LAYOUT.name_of(values) for values in build_board([named(name)]).to_dict("records")]
    assert key == [CELL_LAYOUT.name_of(values) for values in build_board([named("mine.py:X")]).to_dict("records")]


def test_an_edited_file_is_told_by_its_version() -> None:
    records = [make_record(defense="mine.py:X", defense_source=f"v1-{digest}") for digest in ("aa", "bb")]
    board = build_board(records)
    assert set(board["defense"]) == {"mine.py:X"}
    assert set(board["defense_args"]) == {"source=v1-aa", "source=v1-bb"}
