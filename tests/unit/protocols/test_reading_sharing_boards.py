"""A board of shared features that was edited: figures that cannot be are refused, as in other boards."""

from pathlib import Path

import pytest

PUBLISHED = Path(__file__).resolve().parents[3] / "leaderboards" / "sharing-modules.csv"


def edited(tmp_path: Path, column: str, value: str) -> Path:
    header, first, *rest = PUBLISHED.read_text(encoding="utf-8").splitlines()
    values = first.split(",")
    values[header.split(",").index(column)] = value
    path = tmp_path / "board.csv"
    path.write_text("\n".join([header, ",".join(values), *rest]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *[("ssim", "inf"), ("ssim", "-5"), ("ssim_public", "1.5"), ("lpips_low", "-1"), ("accuracy", "74")],
        *[("leakage_high", "-inf"), ("reid_top1", "1.2"), ("gain", "inf")],
    ],
)
def test_a_figure_that_cannot_be_is_refused(tmp_path, dpbench, column, value):
    outcome = dpbench("gate", edited(tmp_path, column, value), "--max-ssim", "0.9")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert f"data row 1: {column} is {float(value):g}, which it cannot be" in outcome.err


def test_the_board_itself_is_read(dpbench):
    assert dpbench("gate", PUBLISHED, "--max-ssim", "1").status == 0
