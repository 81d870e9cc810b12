"""The gate on files and run directories: what it reads, compares image by image, and notes."""

from __future__ import annotations

import inspect
import io
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from gate_boards import two_rows
from record_factory import make_grid, make_record
from rich.console import Console

from dpbench.board.files import write_board
from dpbench.board.leaderboard import build_board
from dpbench.cli.verbs import boards
from dpbench.errors import DpbenchError
from dpbench.gate.check import load_side, run_check
from dpbench.gate.compare import compare
from dpbench.gate.findings import Tolerance
from dpbench.records.store import CELLS


@pytest.fixture(name="board")
def board_fixture() -> pd.DataFrame:
    return two_rows()


def check(candidate: Path, baseline: Path, junit: Path | None = None, **environment: str) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=100)
    status = run_check(
        candidate, baseline, tolerance=Tolerance(), junit=junit, environment=environment, console=console
    )
    return status, console.file.getvalue()  # type: ignore[attr-defined]


def test_run_check_on_files_and_run_directories(tmp_path: Path) -> None:
    records = make_grid(12, split_points=("layer1",))
    for record in records:
        CELLS.write(tmp_path / "run", record)
    baseline = tmp_path / "baseline.csv"
    write_board(build_board(records), baseline)
    assert check(tmp_path / "run", baseline)[0] == 0
    assert check(baseline, baseline)[0] == 0
    assert len(load_side(tmp_path / "run").board) == len(load_side(baseline).board)

    worse = [r for r in records if not (r.cell.defense.name == "dpm" and r.cell.attack.name == "rmle")]
    settings = {"defense": "dpm", "defense_args": {"weight": 1.0, "rounds": 3}, "attack": "rmle"}
    hits = [True] * 210 + [False] * 90
    worse.append(make_record(**settings, ssim=0.99, psnr_db=40, lpips=0.01, victims=12, correct=hits))
    for record in worse:
        CELLS.write(tmp_path / "other", record)
    junit, step = tmp_path / "junit.xml", tmp_path / "step.md"
    status, text = check(tmp_path / "other", baseline, junit, GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(step))
    assert status == 1
    assert "leaks more" in text
    assert "missing" in text
    assert any(line.startswith("::error title=dpbench%3A leaks more::leaves") for line in text.splitlines())
    assert "**leaks more**" in step.read_text()
    cases = ET.parse(junit).getroot().findall(".//testcase")
    assert len(cases) == len(load_side(baseline).board)
    assert "::error" not in check(tmp_path / "other", baseline)[1]


def test_two_run_directories_are_compared_image_by_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    before = np.clip(rng.normal(0.5, 0.2, 60), 0, 1)
    runs = {
        "baseline": before,
        "shifted": before + 0.03,  # every image a little: real, though within the interval of the mean
        "other": rng.permutation(before) + 0.03,  # as much on average, by other images
    }
    for name, ssim in runs.items():
        CELLS.write(tmp_path / name, make_record(defense="dpm", ssim=ssim.tolist(), victims=60))
    write_board(build_board([make_record(defense="dpm", ssim=before.tolist(), victims=60)]), tmp_path / "baseline.csv")
    assert check(tmp_path / "shifted", tmp_path / "baseline.csv")[0] == 0
    status, text = check(tmp_path / "shifted", tmp_path / "baseline")
    assert status == 1
    assert "by image [0.030, 0.030]" in " ".join(text.split())
    assert check(tmp_path / "other", tmp_path / "baseline")[0] == 0
    assert check(tmp_path / "baseline", tmp_path / "baseline")[0] == 0


def test_accuracy_is_compared_image_by_image(tmp_path: Path) -> None:
    hits = np.random.default_rng(0).random(400) < 0.7
    fewer = hits.copy()
    fewer[np.flatnonzero(hits)[:10]] = False  # 2.5 points: within the interval, but the same images every time
    for name, correct in (("a", hits), ("b", fewer)):
        CELLS.write(tmp_path / name, make_record(defense="dpm", correct=correct.tolist()))
    write_board(build_board([make_record(defense="dpm", correct=hits.tolist())]), tmp_path / "a.csv")
    assert check(tmp_path / "b", tmp_path / "a.csv")[0] == 0
    assert check(tmp_path / "b", tmp_path / "a")[0] == 1
    assert check(tmp_path / "a", tmp_path / "b")[0] == 0


def test_run_check_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    good = tmp_path / "good.csv"
    write_board(build_board([make_record()]), good)
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DpbenchError, match="lacks the columns"):
        check(good, tmp_path / "bad.csv")
    with pytest.raises(DpbenchError, match="cannot be read"):
        check(tmp_path / "nothing.csv", good)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DpbenchError, match="not a run directory"):
        check(tmp_path / "folder", good)
    (tmp_path / "folder" / "records").mkdir()
    with pytest.raises(DpbenchError, match="candidate has no rows"):
        check(tmp_path / "folder", good)


def test_two_csv_files_are_compared_without_torch(tmp_path: Path) -> None:
    """It takes seconds to import, in every build that is gated."""
    path = tmp_path / "board.csv"
    write_board(build_board(make_grid()), path)
    code = f"""
import sys
from dpbench.cli import app as cli
sys.argv = ["dpbench", "check", {str(path)!r}, "--baseline", {str(path)!r}]
try:
    cli.main()
except SystemExit as end:
    print("status", end.code, "torch" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "status 0 False"


def test_the_verdict_says_how_much_was_compared(board: pd.DataFrame, tmp_path: Path) -> None:
    result = compare(board, board, tolerance=Tolerance())
    assert (len(result.rows), result.figures, result.notes) == (2, 12, [])
    path = tmp_path / "board.csv"
    write_board(build_board(make_grid(12)), path)
    assert re.search(r"passed: .* in \d+ rows of the baseline, \d+ figures compared", check(path, path)[1])


def test_exchanged_images_are_named_once_and_are_no_leakage(tmp_path: Path) -> None:
    for name, ssim in (("before", 0.3), ("after", 0.6)):
        for record in make_grid(12, split_points=("layer1",)):
            victims = [f"{name}-{victim}" for victim in record.victims]
            fidelity = record.fidelity | {"ssim": [ssim] * len(victims)}
            CELLS.write(tmp_path / name, record.model_copy(update={"victims": victims, "fidelity": fidelity}))
    status, text = check(tmp_path / "after", tmp_path / "before")
    assert status == 1
    assert "leaks more" not in text
    assert text.count("not compared") == 1
    assert "measured on other images" in " ".join(line[57:].strip() for line in text.splitlines())


def test_notes_of_two_runs(tmp_path: Path) -> None:
    machine = {"versions": {"torch": "2.6"}, "threads": 2, "processor": "x"}
    for name, threads, day in (("before", 2, "02"), ("after", 1, "03"), ("early", 2, "01")):
        record = make_record(defense="dpm", victims=12)
        given = {"environment": machine | {"threads": threads}, "created": f"2026-01-{day}T00:00:00+00:00"}
        CELLS.write(tmp_path / name, record.model_copy(update=given))
    said = " ".join(check(tmp_path / "after", tmp_path / "before")[1].split())
    assert "note: measured on other machines (threads 1, in the baseline 2): figures may differ" in said
    said = " ".join(check(tmp_path / "early", tmp_path / "before")[1].split())
    assert "other machines" not in said
    assert "note: the candidate was measured before the baseline; are the two exchanged?" in said
    said = " ".join(check(tmp_path / "before", tmp_path / "before")[1].split())
    assert "note: candidate and baseline are the same" in said


def test_cells_that_are_all_others_are_noted(board: pd.DataFrame) -> None:
    result = compare(board.assign(cell=["a", ""]), board.assign(cell=["b", ""]), tolerance=Tolerance())
    assert len(result.notes) == 1
    assert result.notes[0].startswith("none of 1 cells has the identity that it has in the baseline")
    assert compare(board.assign(cell="a"), board.assign(cell="a"), tolerance=Tolerance()).notes == []


def test_the_command_tolerates_by_default_what_the_table_says():
    options = inspect.signature(boards.check).parameters
    assert {name: options[name].default for name in Tolerance.model_fields} == Tolerance().model_dump()
