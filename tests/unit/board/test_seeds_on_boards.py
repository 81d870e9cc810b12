"""Several seeds in one row, and which rows are tied."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from board_rows import SCALE, row, spread, worst
from record_factory import make_record, victim_hashes

from dpbench.board.columns import FLOOR, WORST_CASE
from dpbench.board.files import write_board
from dpbench.board.leaderboard import build_board
from dpbench.records.record import Record


def test_ties_are_paired_image_by_image() -> None:
    base = spread(0.5, width=0.2)
    records = [
        make_record(attack="mean-image", ssim=0.1, victims=60),
        make_record(ssim=0.95, victims=60),
        make_record(defense="a", ssim=base, victims=60),
        # a small difference on every image: well within the intervals, and yet real
        make_record(defense="b", defense_args={"x": 1}, ssim=[value + 0.02 for value in base], victims=60),
        # as large a difference, by other images
        make_record(defense="c", ssim=spread(0.5, seed=3, width=0.2), victims=60),
    ]
    board = build_board(records)
    assert worst(board, defense="a").tied == "c"
    assert worst(board, defense="b").tied == "c"
    assert worst(board, defense="c").tied == "a; b x=1"
    assert worst(board, defense="none").tied == ""
    assert (board[board.attack != WORST_CASE].tied == "").all()


def test_ties_without_leakage_go_by_ssim_and_need_common_victims() -> None:
    records = [make_record(defense="a"), make_record(defense="b")]
    assert worst(build_board(records), defense="a").tied == "b"
    records[1] = make_record(defense="b", victims=victim_hashes(4, first=9))
    assert worst(build_board(records), defense="a").tied == ""


def seeded(defense: str, means: dict[int, float], **more: object) -> list[Record]:
    return [
        make_record(defense=defense, seed=seed, ssim=spread(mean, seed=5, width=0.01), victims=60, **more)  # type: ignore[arg-type]
        for seed, mean in means.items()
    ]


def test_several_seeds_have_a_row_together() -> None:
    means = {0: 0.4, 1: 0.5, 10: 0.6}
    floor = [make_record(attack="mean-image", ssim=0.1, victims=60, seed=seed) for seed in means]
    board = build_board([*floor, *seeded("none", dict.fromkeys(means, 0.9)), *seeded("dpm", means)])
    assert list(dict.fromkeys(board.seed)) == ["0", "1", "10", "all"]
    for attack in (WORST_CASE, "decoder"):
        dpm = row(board, defense="dpm", attack=attack, seed="all")
        single = [row(board, defense="dpm", attack=attack, seed=str(seed)) for seed in means]
        assert dpm.ssim == pytest.approx(np.mean([s.ssim for s in single]), abs=1e-4)
        assert dpm.ssim_spread == pytest.approx(np.std([s.ssim for s in single], ddof=1), abs=1e-4)
        assert dpm.leakage_spread == pytest.approx(np.std([s.leakage for s in single], ddof=1), abs=2e-4)
        assert dpm.accuracy_spread == 0
        # the seeds, not the images, make this interval wide
        assert dpm.ssim_high - dpm.ssim_low > 5 * (single[0].ssim_high - single[0].ssim_low)
        assert (dpm.images, dpm.status, dpm.cell) == (60, "ok", "")
        assert all(np.isnan(s.ssim_spread) for s in single)
    assert len(board[(board.seed == "all") & (board.attack == FLOOR)]) == 1


def test_a_single_seed_has_no_row_together_and_a_failed_one_is_said() -> None:
    assert set(build_board(SCALE).seed) == {"0"}
    board = build_board([make_record(seed=0, ssim=0.4), make_record(seed=1, failed="no memory")])
    together = row(board, attack="decoder", seed="all")
    assert (together.status, together.ssim) == ("incomplete", 0.4)
    assert together.error == "seed 1 failed: no memory"
    assert np.isnan(together.ssim_spread)


def test_order_of_records_is_nothing_with_seeds_tiers_and_claims(tmp_path: Path) -> None:
    records = [*SCALE, *seeded("dpm", {0: 0.5, 1: 0.6}), *seeded("dpm", {0: 0.4, 1: 0.3}, auxiliary="shifted")]
    records += [make_record(defense="dpm", attack="rmle", releases=4, seed=1, failed="no")]
    contents = set()
    for seed in range(3):
        random.Random(seed).shuffle(records)
        write_board(build_board(records, claimed=records[::-1]), tmp_path / "board.csv")
        contents.add((tmp_path / "board.csv").read_bytes())
    assert len(contents) == 1
