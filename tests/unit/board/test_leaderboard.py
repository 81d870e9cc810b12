"""Figures of a board: worst cases, leakage, accuracy, and what has failed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from board_rows import DOCUMENTED, row
from record_factory import make_grid, make_record, victim_hashes

from dpbench.board.columns import COLUMNS, OPTIONAL_COLUMNS, WORST_CASE
from dpbench.board.leaderboard import build_board
from dpbench.errors import DpbenchError


def test_columns_are_the_documented_ones() -> None:
    assert list(COLUMNS) == DOCUMENTED
    on_a_scale = {"leakage_metrics", "leakage_images"}
    assert [column for column in build_board(make_grid(4)).columns if column not in on_a_scale] == DOCUMENTED
    text = (Path(__file__).parents[3] / "dpbench" / "guide" / "boards.md").read_text()
    assert [column for column in (*DOCUMENTED, *OPTIONAL_COLUMNS) if f"`{column}`" not in text] == []


def test_top5_is_there_where_it_was_measured() -> None:
    record = make_record(correct=[True, False, False, False])
    assert record.utility is not None
    utility = record.utility.model_copy(update={"top5": [True, True, True, False]})
    board = build_board([record.model_copy(update={"utility": utility})])
    row = board[board["attack"] == "decoder"].iloc[0]
    assert (row["accuracy"], row["accuracy_top5"]) == (0.25, 0.75)
    assert row["accuracy_top5_low"] <= 0.75 <= row["accuracy_top5_high"]


def test_worst_case_is_per_image_and_per_metric() -> None:
    board = build_board(
        [
            make_record(
                attack="decoder", ssim=[0.9, 0.1], psnr_db=[10, 20], lpips=[0.5, 0.1], mse=[0.4, 0.1], victims=2
            ),
            make_record(attack="rmle", ssim=[0.3, 0.7], psnr_db=[30, 10], lpips=[0.2, 0.6], mse=[0.2, 0.3], victims=2),
        ]
    )
    worst = row(board, attack=WORST_CASE)
    assert (worst.ssim, worst.psnr_db, worst.lpips, worst.mse) == (0.8, 25.0, 0.15, 0.15)
    assert worst.images == 2
    assert worst.seconds == 2.0
    assert worst.status == "ok"
    assert worst.cell == ""


def test_worst_case_is_over_the_victims_that_all_attacks_share() -> None:
    board = build_board(
        [
            make_record(attack="decoder", ssim=[0.1, 0.2, 0.3, 0.4], victims=4),
            make_record(attack="rmle", ssim=[0.9, 0.0], victims=victim_hashes(2, first=2)),
        ]
    )
    worst = row(board, attack=WORST_CASE)
    assert worst.images == 2
    assert worst.ssim == pytest.approx((0.9 + 0.4) / 2)
    assert row(board, attack="decoder").ssim == 0.25
    assert row(board, attack="decoder").images == 4


def test_attacks_without_a_common_victim_have_no_worst_case() -> None:
    board = build_board([make_record(victims=2), make_record(attack="rmle", victims=victim_hashes(2, first=5))])
    worst = row(board, attack=WORST_CASE)
    assert worst.status == "failed"
    assert "no victim in common" in worst.error
    assert np.isnan(worst.ssim)


def test_floors_count_in_every_threat_model_and_are_run_once() -> None:
    board = build_board(
        [
            make_record(attack="mean-image", ssim=0.2),
            make_record(attack="decoder", ssim=0.8),
            make_record(defense="dpm", attack="decoder", ssim=0.5),
            make_record(defense="dpm", attack="decoder", ssim=0.05, threat_model="static"),
        ]
    )
    static = row(board, defense="dpm", attack=WORST_CASE, threat_model="static")
    assert static.ssim == 0.2  # the mean image, which anyone can output
    assert row(board, defense="dpm", attack=WORST_CASE, threat_model="weights").ssim == 0.5
    assert static.leakage == 0.0
    assert len(board[(board.defense == "none") & (board.attack == WORST_CASE)]) == 1


def calibrated(ssim: float, lpips: float | None = None) -> list:
    grade = {"victims": 3}
    return [
        make_record(attack="mean-image", ssim=[0.1, 0.0, 0.2], lpips=0.8, psnr_db=10, **grade),
        make_record(attack="random-image", ssim=[0.0, 0.2, 0.0], lpips=0.9, psnr_db=8, **grade),
        make_record(attack="decoder", ssim=[0.9, 0.8, 1.0], lpips=0.2, psnr_db=30, **grade),
        make_record(defense="dpm", ssim=ssim, lpips=lpips, psnr_db=20, **grade),
    ]


def test_leakage_is_1_undefended_and_0_at_the_floor() -> None:
    board = build_board(calibrated(0.5, 0.5))
    assert row(board, defense="none", attack=WORST_CASE).leakage == 1.0
    assert row(board, attack="mean-image").leakage == 0.0
    floor = (0.1 + 0.2 + 0.2) / 3  # the best of both floors per image
    expected = np.mean([(0.5 - floor) / (0.9 - floor), (20 - 10) / (30 - 10), (0.8 - 0.5) / (0.8 - 0.2)])
    assert row(board, defense="dpm", attack="decoder").leakage == pytest.approx(expected, abs=1e-4)


def test_leakage_uses_only_metrics_that_all_rows_have() -> None:
    board = build_board(calibrated(0.5, None))
    floor = 0.5 / 3
    expected = np.mean([(0.5 - floor) / (0.9 - floor), 0.5])
    assert row(board, defense="dpm", attack="decoder").leakage == pytest.approx(expected, abs=1e-4)


def test_leakage_is_empty_without_a_scale() -> None:
    no_floor = [make_record(ssim=0.8), make_record(defense="dpm", ssim=0.5)]
    assert build_board(no_floor).leakage.isna().all()
    no_undefended = [make_record(attack="mean-image", ssim=0.1), make_record(defense="dpm", ssim=0.5)]
    assert build_board(no_undefended).leakage.isna().all()
    weak = [make_record(attack="mean-image", ssim=0.1), make_record(ssim=0.11), make_record(defense="dpm", ssim=0.5)]
    assert build_board(weak).leakage.isna().all()


def test_leakage_is_clipped() -> None:
    board = build_board(
        [
            make_record(attack="mean-image", ssim=0.2),
            make_record(attack="decoder", ssim=0.8),
            make_record(defense="a", ssim=0.9),
            make_record(defense="b", ssim=0.1),
        ]
    )
    assert row(board, defense="a", attack="decoder").leakage == 1.0
    assert row(board, defense="b", attack="decoder").leakage == 0.0
    assert row(board, defense="b", attack=WORST_CASE).leakage == 0.0


def test_failed_cells_stay_with_their_reason_and_without_figures() -> None:
    board = build_board(
        [
            make_record(attack="decoder", ssim=0.4),
            make_record(attack="gan", failed="RuntimeError: it\nbroke " + "x" * 500),
        ]
    )
    failed = row(board, attack="gan")
    assert failed.status == "failed"
    assert failed.error.startswith("RuntimeError: it broke xx")
    assert len(failed.error) == 160
    assert pd.isna(failed.images)
    figures = [c for c in COLUMNS if c != "seconds" and board[c].dtype == np.float64]
    assert failed[figures].isna().all()
    worst = row(board, attack=WORST_CASE)
    assert worst.status == "incomplete"
    assert worst.ssim == 0.4
    assert "gan" in worst.error


def test_a_setting_whose_attacks_all_failed_is_not_judged_by_its_floors() -> None:
    records = [
        make_record(attack="mean-image", ssim=0.1),
        make_record(ssim=0.8),
        make_record(defense="dpm", failed="out of memory"),
    ]
    worst = row(build_board(records), defense="dpm", attack=WORST_CASE)
    assert worst.status == "failed"
    assert pd.isna(worst.ssim)
    assert worst.accuracy == 0.75  # measured before the attack


def test_accuracy_and_drop_against_the_undefended_model() -> None:
    hits = [True] * 9 + [False]
    board = build_board(
        [
            make_record(correct=hits),
            make_record(defense="dpm", correct=[*hits[2:], False, False]),
            make_record(defense="dpm", split_point="layer2"),
        ]
    )
    defended = row(board, defense="dpm", split_point="layer1", attack="decoder")
    assert (defended.accuracy, defended.accuracy_drop) == (0.7, 0.2)
    assert defended.accuracy_low < 0.7 < defended.accuracy_high
    assert row(board, defense="none", attack="decoder").accuracy_drop == 0.0
    assert np.isnan(row(board, split_point="layer2", attack="decoder").accuracy_drop)


def test_identical_images_are_capped() -> None:
    board = build_board([make_record(psnr_db=[float("inf"), 20.0], victims=2)])
    assert row(board, attack="decoder").psnr_db == 50.0  # as `dpbench.metrics.fidelity.psnr_db` itself: 80 dB
    assert np.isfinite(row(board, attack=WORST_CASE).psnr_db_high)


def test_figures_that_are_not_finite_count_as_not_measured() -> None:
    board = build_board([make_record(ssim=[0.5, float("nan")], mse=0.1, victims=2)])
    assert board.ssim.isna().all()
    assert (board.mse == 0.1).all()


def test_a_record_with_other_counts_is_refused() -> None:
    with pytest.raises(DpbenchError, match="3 figures of ssim for 4 victims"):
        build_board([make_record(ssim=[0.1, 0.2, 0.3], victims=4)])
