"""What figures do not say by themselves is said in words, wherever they are shown."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from board_pages import written
from drawn_axes import axes_drawn
from record_factory import make_record
from rich.console import Console

from dpbench.board.caveats import made_of, recognised
from dpbench.board.files import read_board, write_board
from dpbench.board.leaderboard import build_board
from dpbench.records.record import Record
from dpbench.reporting.plots import tradeoff_plot as plots
from dpbench.reporting.plots.tradeoff_plot import write_tradeoff
from dpbench.reporting.table import print_table


def scale(**more: object) -> list[Record]:
    return [
        make_record(attack="mean-image", ssim=0.1, reid_rank=9, victims=16, **more),  # type: ignore[arg-type]
        make_record(ssim=0.9, reid_rank=0, victims=16, **more),  # type: ignore[arg-type]
    ]


def dropout(**more: object) -> Record:
    """As in the suite `quick`: leakage at the floor, and every victim found."""
    found = {"defense": "dropout", "victims": 16, "ssim": 0.101, "reid_rank": 0, "threat_model": "static"}
    return make_record(**found | more)  # type: ignore[arg-type]


def printed(board: pd.DataFrame, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_table(board, console)
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


@pytest.mark.parametrize("ending", ["md", "html"])
def test_leakage_at_the_floor_is_not_called_privacy(tmp_path: Path, ending: str) -> None:
    board = build_board([*scale(), dropout()])
    text = written(board, tmp_path / f"board.{ending}")
    assert "Leakage 0 is the floor of the picture metrics, not privacy" in text
    # the attack and its worst case; a page shows worst cases above the board too, with what hovering says
    assert text.count("victims re-identified all the same") == (2 if ending == "md" else 4)
    shown = printed(board)
    assert "leakage 0 is the floor of the picture metrics, not privacy" in shown
    assert "re-identified: dropout (static) 0.00 and 100%" in shown


def test_only_who_finds_more_than_the_floor_does_is_said_to_re_identify() -> None:
    for more, expected in (
        ({}, True),
        ({"reid_rank": 9}, False),
        ({"ssim": 0.5}, False),
        ({"reid_rank": [0] * 2 + [9] * 14}, False),  # by chance
        ({"reid_rank": None}, False),
    ):
        board = build_board([*scale(), dropout(**more)])
        assert recognised(board)[board["defense"] == "dropout"].all() == expected
        assert not recognised(board)[board["defense"] == "none"].any()
    assert len(recognised(build_board([]))) == 0
    assert "Hardly any leakage" not in printed(build_board([*scale(), dropout(reid_rank=9)]))


@pytest.mark.parametrize("width", [40, 60, 120])
def test_leakage_is_never_printed_without_re_identification(width: int) -> None:
    shown = printed(build_board([*scale(), dropout()]), width)
    assert shown.count("re-id") >= 1
    assert "100%" in shown or "1.00" in shown


def test_leakage_without_a_metric_says_so_in_one_line() -> None:
    line = "leakage: from SSIM, without PSNR and LPIPS; compare it with leakage from the same metrics only"
    assert line in printed(build_board([*scale(), dropout()]))
    full = [
        make_record(attack="mean-image", ssim=0.1, psnr_db=10, lpips=0.8),
        make_record(ssim=0.9, psnr_db=30, lpips=0.1),
    ]
    assert "leakage: from" not in printed(build_board(full))
    mixed = printed(build_board([*full, make_record(defense="dpm", ssim=0.5, psnr_db=20)]))
    assert "leakage of none: from SSIM, PSNR and LPIPS;" in mixed
    assert "leakage of dpm: from SSIM and PSNR, without LPIPS;" in mixed
    assert made_of("ssim (trained on)") == (
        "SSIM, without PSNR and LPIPS, all of which the defense says it was trained on"
    )


def test_one_seed_says_what_its_intervals_leave_out(tmp_path: Path) -> None:
    for ending in ("md", "html"):
        text = written(build_board(scale()), tmp_path / f"board.{ending}")
        assert "moves SSIM by up to 0.03 to 0.08" in text
    assert "moves SSIM by up to 0.03 to 0.08" in printed(build_board(scale()))
    both = build_board([*scale(), *scale(seed=1)])
    assert "moves SSIM" not in printed(both)


def test_who_did_not_converge_is_marked_and_the_static_attacker_otherwise(tmp_path: Path) -> None:
    records = [
        *scale(),
        make_record(defense="dpm", victims=16, ssim=0.5, converged=False),
        dropout(defense="dpm", ssim=0.3, reid_rank=9, converged=False),
        make_record(defense="both", victims=16, ssim=0.5, converged=False),
        make_record(defense="both", victims=16, ssim=0.4, attack="rmle", converged=True),
    ]
    board = build_board(records)
    rows = board.set_index(["defense", "attack", "threat_model"])
    assert rows.loc[("dpm", "worst-case", "weights"), "converged"] == "no"
    assert rows.loc[("both", "worst-case", "weights"), "converged"] == ""
    assert set(board["status"]) == {"ok"}
    shown = printed(board)
    assert "0.50?" in shown
    assert "0.30~" in shown
    assert "~: the static attack did not converge" in shown
    assert "~:" not in printed(build_board(scale()))
    for ending in ("md", "html"):
        text = written(board, tmp_path / f"board.{ending}")
        assert text.count("ok; the attack did not converge") == (3 if ending == "md" else 5)
        assert text.count("ok; a static attack that did not converge") == (2 if ending == "md" else 4)
    write_board(board, tmp_path / "board.csv")
    assert list(read_board(tmp_path / "board.csv")["converged"]) == list(board["converged"])


def test_the_plot_shows_re_identification_beside_leakage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = build_board([*scale(), dropout()])
    axes = axes_drawn(monkeypatch, plots, lambda: write_tradeoff(board, tmp_path / "plot.png"))
    assert [one.get_ylabel().split()[0] for one in axes] == ["worst-case", "leakage", "re-identified"]
    assert "no privacy" in axes[1].get_ylabel()


def test_the_plot_leaves_out_leakage_of_other_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = [
        make_record(attack="mean-image", ssim=0.1, lpips=0.8),
        make_record(ssim=0.9, lpips=0.1),
        make_record(defense="a", ssim=0.5, lpips=0.4),
        make_record(defense="b", ssim=0.5),
    ]
    axes = axes_drawn(monkeypatch, plots, lambda: write_tradeoff(build_board(full), tmp_path / "plot.png"))
    shown = {one.get_ylabel().split()[0]: set(one.get_legend_handles_labels()[1]) - {"floor"} for one in axes}
    assert shown["worst-case"] == {"undefended", "a", "b"}
    assert shown["leakage"] == {"undefended", "a"}
