"""Cost and link on boards: optional columns, of a setting and of its best-informed attacker."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from record_factory import make_record
from rich.console import Console

from dpbench.board.columns import CLIENT_COUNTS, FLOOR, WORST_CASE
from dpbench.board.comparisons import difference
from dpbench.board.files import read_board, write_board
from dpbench.board.leaderboard import build_board, build_rows, per_image
from dpbench.errors import DpbenchError
from dpbench.gate.compare import compare
from dpbench.gate.findings import Tolerance, limits
from dpbench.gate.limits import judge
from dpbench.metrics.linkage import Link
from dpbench.protocols.inference.report import report_of_cells
from dpbench.records.record import Record
from dpbench.reporting.plots.depth_plot import depths
from dpbench.reporting.table import print_table
from dpbench.service.costs import ClientCost

COST = ClientCost(multiply_adds=300, added_multiply_adds=100, parameters=50, added_parameters=20, coded_bits=64)
NEW = ("link_top1", "link_top1_low", "link_top1_high", "link_chance", "client_share", "client_ms", *CLIENT_COUNTS)


def made(link: list[int] | None = None, *, share: float = 0.5, ms: float = 2.0, **more: Any) -> Record:
    record = make_record(**{"victims": 16, "ssim": 0.11, "release_bits": 128, "reid_rank": 9} | more)
    count = len(record.victims)
    return record.model_copy(
        update={
            "cost": COST,
            "client_ms": ms,
            "released": {"client_share": share},
            "link": None if link is None else Link(rank=(link * count)[:count], candidates=400),
        }
    )


def board_records(**more: Any) -> list[Record]:
    """A floor, the undefended model, and a defense that hides the picture from both tiers and not which one it is."""
    return [
        made(attack="mean-image", ssim=0.1, share=0.3),
        made([0], ssim=0.9, reid_rank=0, share=0.3),
        made([0], defense="dpm", **more),
        made([7], defense="dpm", threat_model="static", ms=8.0),
        made([0], defense="dpm", attack="rmle", ms=4.0, victims=8),
    ]


def row(board: pd.DataFrame, **wanted: Any) -> Any:
    for column, value in wanted.items():
        board = board[board[column] == value]
    (one,) = board.itertuples()
    return one


def test_the_columns_are_there_only_where_records_have_them(tmp_path: Path) -> None:
    old = build_board([make_record(attack="mean-image"), make_record()])
    assert not set(NEW) & set(old.columns)
    board = build_board(board_records())
    assert set(NEW) <= set(board.columns)
    without = build_board([record.model_copy(update={"cost": None, "link": None}) for record in board_records()])
    assert [column for column in board.columns if column not in NEW] == list(without.columns)
    write_board(board, tmp_path / "board.csv")
    again = read_board(tmp_path / "board.csv")
    pd.testing.assert_frame_equal(again, board)
    write_board(board, tmp_path / "board.md")
    assert "added_multiply_adds" in (tmp_path / "board.md").read_text()


def test_cost_is_that_of_the_setting() -> None:
    board = build_board(board_records())
    for attack in (WORST_CASE, "decoder"):
        one = row(board, defense="dpm", attack=attack, threat_model="weights")
        assert (one.client_multiply_adds, one.added_multiply_adds, one.added_parameters) == (300, 100, 20)
        assert (one.coded_bits, one.client_share) == (64, 0.5)
        assert one.client_ms == 4.0 if attack == WORST_CASE else 2.0
    assert row(board, defense="none", attack=WORST_CASE).client_share == 0.3


def test_link_is_that_of_who_knows_most_and_no_guess_has_one() -> None:
    board = build_board(board_records())
    known = row(board, defense="dpm", attack=WORST_CASE, threat_model="weights")
    assert (known.link_top1, known.link_chance) == (1.0, 1 / 400)
    assert known.link_top1_low < 1.0 == known.link_top1_high
    static = row(board, defense="dpm", attack=WORST_CASE, threat_model="static")
    assert (static.link_top1, static.link_chance) == (0.0, 1 / 400)
    for attack in ("mean-image", FLOOR):
        assert pd.isna(row(board, attack=attack).link_top1)


def test_several_seeds_are_averaged() -> None:
    records = [*board_records(), *(made(link, seed=1, defense=d) for link, d in (([0], "none"), ([5], "dpm")))]
    one = row(build_board(records), defense="dpm", attack=WORST_CASE, seed="all", threat_model="weights")
    assert one.link_top1 == 0.5


def test_links_are_compared_image_by_image() -> None:
    now, was = (
        next(r for r in build_rows([made(link, victims=40)]) if r.name.attack == WORST_CASE) for link in ([0], [0, 9])
    )
    low, high = difference(was, now, "link_top1")  # type: ignore[misc]
    assert 0 < low < 0.5 < high
    assert difference(was, now, "identity_top1") is None


def test_the_gate_knows_the_column() -> None:
    better = build_board([made([0, 9, 9, 9]), made([9], defense="dpm")])
    worse = build_board([made([0, 9, 9, 9]), made([0], defense="dpm")])
    found = compare(worse, better, tolerance=Tolerance())
    assert not found.passed
    assert any(finding.message.startswith("link_top1 0.000") for finding in found.findings)
    assert compare(better, better, tolerance=Tolerance()).passed
    old = build_board([make_record(victims=16, ssim=0.11, reid_rank=9), make_record(victims=16, defense="dpm")])
    assert compare(old, old, tolerance=Tolerance()).passed
    allowed = limits({"max_link": 0.1})
    assert judge(worse, worse_layout(), allowed).answer == "NO"
    assert "named among candidates 100%" in judge(worse, worse_layout(), allowed).line
    assert judge(old, worse_layout(), allowed).answer == "NO"  # nothing passes because it was not measured


def worse_layout() -> Any:
    from dpbench.board.columns import CELL_LAYOUT

    return CELL_LAYOUT


def test_it_is_said_where_leakage_is_low_and_the_photograph_is_named() -> None:
    board = build_board(board_records())
    console = Console(file=io.StringIO(), width=300)
    print_table(board, console)
    shown = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "comparing releases names it. Hardly any leakage, and named: dpm (weights) 100%" in shown
    assert " link " in shown
    lines = " ".join(line for answer in report_of_cells(board).answers for line in answer.lines)
    assert "yet comparing releases names 100% of them among 400 candidates" in lines
    held = build_board([*board_records()[:2], made([7], defense="dpm")])
    assert "comparing releases" not in " ".join(report_of_cells(held).answers[0].lines)


def test_figures_per_image_hold_the_ranks() -> None:
    frame = per_image(board_records())
    assert set(frame[(frame.defense == "dpm") & (frame.threat_model == "static")].link_rank) == {7.0}
    assert "link_rank" not in per_image([make_record()])


def test_depth_is_that_of_the_undefended_client() -> None:
    assert set(depths(board_records()).values()) == {0.3}


@pytest.mark.parametrize(
    ("column", "value"),
    [("link_top1", "1.5"), ("client_share", "-0.1"), ("coded_bits", "-4"), ("client_ms", "-1"), ("link_chance", "2")],
)
def test_values_that_cannot_be_are_refused(tmp_path: Path, column: str, value: str) -> None:
    path = tmp_path / "board.csv"
    write_board(build_board(board_records()), path)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[table.index[0], column] = value
    table.to_csv(path, index=False)
    with pytest.raises(DpbenchError, match=f"{column} is {value}"):
        read_board(path)


def test_a_client_that_costs_less_is_no_error(tmp_path: Path) -> None:
    record = made([0])
    cheap = record.model_copy(update={"cost": COST.model_copy(update={"added_multiply_adds": -100})})
    write_board(build_board([cheap]), tmp_path / "board.csv")
    assert (read_board(tmp_path / "board.csv").added_multiply_adds == -100).all()
