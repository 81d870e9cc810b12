"""Below a table settings are called as in it, by what tells them apart."""

from record_factory import make_record

from dpbench.board.leaderboard import build_board
from dpbench.reporting.selection import caveat_lines

MANY = {"strength": 1.0, "epochs": 4, "learning_rate": 0.004, "batch_size": 64}


def test_settings_that_leak_little_and_are_recognised_are_called_as_in_the_table():
    shared = {"victims": 40, "reid_rank": 0, "gallery": 100}
    weak = [
        make_record(defense="dpm", defense_args=MANY | {"strength": strength}, ssim=0.11, psnr_db=5.1, **shared)
        for strength in (1.0, 2.0)
    ]
    floor = make_record(attack="mean-image", ssim=0.1, psnr_db=5.0, victims=40, reid_rank=50, gallery=100)
    *_, line = caveat_lines(build_board([floor, make_record(ssim=0.9, psnr_db=30.0, **shared), *weak]))
    assert "re-identified: dpm strength=1.0 (weights)" in line
    assert "; dpm strength=2.0 (weights)" in line
    assert "epochs" not in line
