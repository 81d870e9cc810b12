"""What is not compared: figures of other metrics, ensembles, suites and settings."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from gate_boards import changed, kinds, two_rows
from record_factory import make_grid

from dpbench.board.leaderboard import build_board
from dpbench.errors import DpbenchError
from dpbench.gate.compare import _other_leakage, compare
from dpbench.gate.findings import Tolerance
from dpbench.gate.outputs import workflow_commands, write_junit


@pytest.fixture(name="board")
def board_fixture() -> pd.DataFrame:
    return two_rows()


FIGURES = ("ssim", "psnr_db", "lpips", "leakage", "reid_top1", "accuracy")


def test_a_baseline_without_figures_is_refused(board: pd.DataFrame) -> None:
    ends = [f"{metric}{end}" for metric in FIGURES for end in ("", "_low", "_high")]
    with pytest.raises(DpbenchError, match=r"the baseline says ok, but has no figure in .* and 1 more row: there is"):
        compare(board, board.assign(**dict.fromkeys(ends, np.nan)), tolerance=Tolerance())
    with pytest.raises(DpbenchError, match="the baseline says ok, but has no figure in leaves"):
        compare(board, changed(board, **dict.fromkeys(ends, np.nan)), tolerance=Tolerance())
    with pytest.raises(DpbenchError, match="the candidate says ok, but has no figure"):
        compare(board.assign(**dict.fromkeys(ends, np.nan)), board, tolerance=Tolerance())
    broken = board.assign(status="failed", **dict.fromkeys(ends, np.nan))
    with pytest.raises(DpbenchError, match="nothing to compare"):
        compare(broken, broken, tolerance=Tolerance())


@pytest.mark.parametrize("metric", ["ssim", "psnr_db", "accuracy"])
def test_a_figure_that_every_row_has_must_be_in_the_baseline(board: pd.DataFrame, metric: str) -> None:
    result = compare(board, board.assign(**{metric: np.nan}), tolerance=Tolerance())
    (finding,) = result.findings
    assert (finding.kind, finding.fails, len(finding.rows)) == ("not compared", True, 2)
    assert finding.message == f"{metric} is empty in the baseline: nothing to compare it with"
    assert result.name(finding).endswith("and 1 more row")


def test_other_figures_that_the_baseline_lacks_are_noted(board: pd.DataFrame) -> None:
    result = compare(board, board.assign(reid_top1=np.nan), tolerance=Tolerance())
    assert result.findings == []
    assert result.notes == ["reid_top1 is not in the baseline in 2 rows: not compared there"]
    assert result.figures == 10


@pytest.mark.parametrize(
    ("now", "was", "why"),
    [
        ("ssim psnr_db lpips", "ssim psnr_db", "it is made of ssim psnr_db lpips, in the baseline of ssim psnr_db"),
        ("ssim psnr_db", "", "the baseline does not say of what it is made"),
        ("", "ssim psnr_db", "the candidate does not say of what it is made"),
        ("ssim psnr_db", "ssim psnr_db", None),
        ("", np.nan, None),
    ],
)
def test_leakage_of_other_metrics_is_not_compared(
    board: pd.DataFrame, now: object, was: object, why: str | None
) -> None:
    worse = board.assign(leakage=0.99, leakage_metrics=now)
    result = compare(worse, board.assign(leakage_metrics=was), tolerance=Tolerance())
    if why is None:
        assert [finding.kind for finding in result.findings] == ["leaks more", "leaks more"]
    else:
        assert result.findings == []
        (note,) = result.notes
        assert note.startswith(f"leakage is not compared in 2 rows: {why}")


def test_leakage_over_another_ensemble_is_not_compared(board: pd.DataFrame) -> None:
    worse = board.assign(leakage=0.99, ensemble="ensemble-v2")
    result = compare(worse, board.assign(ensemble="ensemble-v1"), tolerance=Tolerance())
    assert result.findings == []
    assert result.notes == [
        "leakage is not compared in 2 rows: the worst case is over ensemble-v2, in the baseline over ensemble-v1"
    ]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("defense_args", "noise_std=2.0", "gaussian: noise_std=1.0 changed to noise_std=2.0"),
        ("defense_args", "noise_std=2.0 clip=3", "gaussian: noise_std=1.0 changed to noise_std=2.0 clip=3"),
        ("seed", "1", "seed changed from 0 to 1"),
        ("budget", "small", "budget changed from standard to small"),
        ("split_point", "layer2", "split_point changed from layer1 to layer2"),
        ("server", "trusted", "server changed from attacker to trusted"),
    ],
)
def test_a_changed_setting_is_one_finding(board: pd.DataFrame, column: str, value: str, message: str) -> None:
    same = board.assign(defense="none", defense_args="")
    candidate = pd.concat([board.assign(**{column: value}), same])
    (finding,) = compare(candidate, pd.concat([board, same]), tolerance=Tolerance()).findings
    assert (finding.kind, finding.fails, len(finding.rows)) == ("changed setting", True, 2)
    assert finding.message.startswith(message)


def test_what_may_have_become_of_a_setting_is_not_guessed(board: pd.DataFrame) -> None:
    two = pd.concat([board.assign(defense_args="noise_std=2.0"), board.assign(defense_args="noise_std=3.0")])
    same = board.assign(defense="none")
    assert kinds(pd.concat([two, same]), pd.concat([board, same])) == ["missing", "new"]


def test_boards_of_other_suites_are_refused(board: pd.DataFrame) -> None:
    other = board.assign(dataset="faces", backbone="vit", defense="dpm")
    with pytest.raises(
        DpbenchError, match=r"no row in common: the candidate begins with faces vit .*; give two boards"
    ):
        compare(other, board, tolerance=Tolerance())


def test_a_server_names_a_row(board: pd.DataFrame) -> None:
    both = pd.concat([board.assign(server=""), board.assign(server="trusted", ssim=0.2)])
    result = compare(both, board, tolerance=Tolerance())
    assert [(finding.kind, len(finding.rows)) for finding in result.findings] == [("new", 2)]
    assert result.name(result.findings[0]).endswith("(weights server=trusted, seed 0) and 1 more row")


def test_leakage_is_compared_where_rows_name_the_same_metrics() -> None:
    def same_leakage(one: dict[str, object], other: dict[str, object]) -> bool:
        filled = ({"leakage_metrics": math.nan, "ensemble": math.nan} | row for row in (one, other))
        return _other_leakage(*filled) == ""

    old = {"lpips": 0.1}
    assert same_leakage(old, old)
    assert same_leakage({"lpips": math.nan}, {"lpips": math.nan})
    assert not same_leakage(old, {"lpips": math.nan})  # as the gate has always told them apart
    new = {"lpips": 0.1, "leakage_metrics": "ssim psnr_db lpips"}
    assert same_leakage(new, dict(new))
    assert not same_leakage(new, old)  # another scale
    assert not same_leakage(new, old | {"leakage_metrics": math.nan})
    assert not same_leakage(new, new | {"leakage_metrics": "ssim psnr_db"})
    assert not same_leakage(new, new | {"leakage_metrics": "ssim psnr_db lpips (trained on)"})


def test_one_missing_metric_is_one_warning(tmp_path: Path) -> None:
    board = build_board(make_grid(12))
    blind = board.assign(lpips=np.nan, lpips_low=np.nan, lpips_high=np.nan)
    result = compare(blind, board, tolerance=Tolerance())
    measured = int(board["lpips"].notna().sum())
    assert measured > 10
    assert [(finding.kind, len(finding.rows), finding.level) for finding in result.findings] == [
        ("missing figure", measured, "warning")
    ]
    assert result.findings[0].message == "lpips is in the baseline and was not measured"
    write_junit(result, tmp_path / "junit.xml")
    told = [case.findtext("system-out") for case in ET.parse(tmp_path / "junit.xml").getroot().iter("testcase")]
    assert len([text for text in told if text is not None]) == measured  # each of its rows still says so
    assert len(workflow_commands(result)) == 1 + len(result.notes)
