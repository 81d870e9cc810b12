"""What the gate finds in a row: better, worse, missing or new, by its intervals and tolerances."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pydantic
import pytest
from gate_boards import ROW, changed, kinds, two_rows

from dpbench.board.columns import row_name
from dpbench.errors import DpbenchError
from dpbench.gate.compare import compare
from dpbench.gate.findings import Tolerance


@pytest.fixture(name="board")
def board_fixture() -> pd.DataFrame:
    return two_rows()


def test_the_same_board_passes(board: pd.DataFrame) -> None:
    assert kinds(board, board) == []
    assert kinds(board.sample(frac=1, random_state=1), board) == []


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"ssim": 0.54}, "leaks more"),
        ({"ssim": 0.53}, None),  # inside the interval
        ({"psnr_db": 20.9}, "leaks more"),
        ({"psnr_db": 20.7}, None),
        ({"lpips": 0.36}, "leaks more"),
        ({"lpips": 0.375}, None),
        ({"leakage": 0.57}, "leaks more"),
        ({"leakage": 0.555}, None),
        ({"leakage": 0.40}, "leaks less"),
        ({"reid_top1": 0.41}, "leaks more"),
        ({"reid_top1": 0.39}, None),
        ({"reid_top1": 0.15}, "leaks less"),
        ({"leakage": np.nan}, "missing figure"),
        ({"reid_top1": np.nan}, "missing figure"),
        ({"status": "unreliable"}, "failed"),
        ({"accuracy": 0.67}, "predicts worse"),
        ({"accuracy": 0.685}, None),
        ({"ssim": 0.40}, "leaks less"),
        ({"psnr_db": 18.0}, "leaks less"),
        ({"lpips": 0.50}, "leaks less"),
        ({"accuracy": 0.75}, "predicts better"),
        ({"status": "failed", "ssim": np.nan}, "failed"),
        ({"status": "incomplete"}, "failed"),
        ({"lpips": np.nan}, "missing figure"),
        ({"ssim": np.nan}, "missing"),
        ({"accuracy": np.nan}, "missing"),
        ({"images": 20}, "other images"),
    ],
)
def test_outcomes(board: pd.DataFrame, values: dict[str, object], kind: str | None) -> None:
    assert kinds(changed(board, **values), board) == ([] if kind is None else [kind])


@pytest.mark.parametrize("metric", ["ssim", "psnr_db", "lpips", "leakage", "reid_top1", "accuracy"])
def test_outside_the_interval_is_not_enough(board: pd.DataFrame, metric: str) -> None:
    """A narrow interval (many images) does not make a change within the tolerance count."""
    narrow = changed(board, **{f"{metric}_low": board[metric][0], f"{metric}_high": board[metric][0]})
    allowed = getattr(Tolerance(), metric)
    worse = -1 if metric in ("lpips", "accuracy") else 1
    assert kinds(changed(narrow, **{metric: board[metric][0] + worse * allowed}), narrow) == []
    assert len(kinds(changed(narrow, **{metric: board[metric][0] + worse * allowed * 1.1}), narrow)) == 1


def test_tolerance_is_settable(board: pd.DataFrame) -> None:
    assert kinds(changed(board, ssim=0.60), board, ssim=0.2) == []
    assert kinds(changed(board, ssim=0.535), board, ssim=0.0) == ["leaks more"]
    with pytest.raises(pydantic.ValidationError):
        Tolerance(ssim=-0.1)


def test_without_an_interval_the_tolerance_decides(board: pd.DataFrame) -> None:
    bare = changed(board, ssim_low=np.nan, ssim_high=np.nan)
    assert kinds(changed(bare, ssim=0.525), bare) == ["leaks more"]
    assert kinds(changed(bare, ssim=0.515), bare) == []


def test_rows_missing_new_and_recovered(board: pd.DataFrame) -> None:
    findings = compare(board.iloc[1:], board, tolerance=Tolerance()).findings
    assert [(f.kind, f.row, f.fails) for f in findings] == [("missing", ROW, True)]
    findings = compare(board, board.iloc[1:], tolerance=Tolerance()).findings
    assert [(f.kind, f.row, f.fails) for f in findings] == [("new", ROW, False)]
    broken = changed(board, status="failed")
    assert kinds(board, broken) == ["recovered"]
    assert kinds(broken, broken) == []


def test_statuses_are_ordered(board: pd.DataFrame) -> None:
    order = ["failed", "unreliable", "incomplete", "ok"]
    for worse, better in itertools.pairwise(order):
        assert kinds(changed(board, status=worse), changed(board, status=better)) == ["failed"]
        assert kinds(changed(board, status=better), changed(board, status=worse)) == ["recovered"]


def test_a_baseline_without_leakage_or_reidentification_does_not_ask_for_them(board: pd.DataFrame) -> None:
    assert kinds(board, changed(board, leakage=np.nan, reid_top1=np.nan)) == []


def test_claimed_rows_are_not_gated(board: pd.DataFrame) -> None:
    both = pd.concat([board.assign(origin="measured"), board.assign(origin="claimed", ssim=0.1)])
    assert kinds(both, board.assign(origin="measured")) == []
    assert kinds(board, both) == []
    with pytest.raises(DpbenchError, match="candidate has no rows"):
        compare(board.assign(origin="claimed"), board, tolerance=Tolerance())


def test_a_row_is_named_by_what_is_granted() -> None:
    assert row_name(ROW) == "leaves resnet10t layer1 | gaussian noise_std=1.0 | decoder (weights, seed 0)"
    other = (*ROW[:7], "shifted", "4", "large", "all")
    assert row_name(other).endswith("decoder (weights shifted releases=4 large, seed all)")


@pytest.mark.parametrize(
    ("by", "kind"),
    [((0.01, 0.2), "leaks more"), ((-0.01, 0.2), None), ((-0.2, -0.1), None), (None, "leaks more")],
)
def test_image_by_image_decides_where_it_is_known(
    board: pd.DataFrame, by: tuple[float, float] | None, kind: str | None
) -> None:
    worse = changed(board, ssim=0.6)
    findings = compare(worse, board, tolerance=Tolerance(), paired=lambda row, column: by).findings
    assert [finding.kind for finding in findings] == ([] if kind is None else [kind])
    # the interval of the baseline alone would not have told
    within = changed(board, ssim=0.525)
    assert kinds(within, board) == []
    closer = compare(within, board, tolerance=Tolerance(), paired=lambda row, column: (0.01, 0.04))
    assert len(closer.findings) == 1


def test_failing_findings_come_first(board: pd.DataFrame) -> None:
    worse = changed(board, ssim=0.1, accuracy=0.1, psnr_db=30.0)
    assert kinds(worse, board) == ["leaks more", "predicts worse", "leaks less"]


def test_unusable_boards(board: pd.DataFrame) -> None:
    with pytest.raises(DpbenchError, match="candidate lacks the columns ssim, ssim_low"):
        compare(board.drop(columns=["ssim", "ssim_low"]), board, tolerance=Tolerance())
    with pytest.raises(DpbenchError, match="baseline lacks the columns seed"):
        compare(board, board.drop(columns="seed"), tolerance=Tolerance())
    with pytest.raises(DpbenchError, match=r"baseline has two rows named leaves resnet10t layer1 \| gaussian"):
        compare(board, pd.concat([board, board]), tolerance=Tolerance())
    with pytest.raises(DpbenchError, match="candidate has no rows"):
        compare(board.iloc[:0], board, tolerance=Tolerance())
    with pytest.raises(DpbenchError, match="status 'fine'"):
        compare(changed(board, status="fine"), board, tolerance=Tolerance())
