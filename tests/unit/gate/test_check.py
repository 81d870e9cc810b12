from __future__ import annotations

import inspect
import io
import itertools
import json
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest
from record_factory import make_grid, make_record
from rich.console import Console

from dpbench.board.columns import KEY, row_name
from dpbench.board.files import write_board
from dpbench.board.leaderboard import build_board
from dpbench.cli.verbs import boards
from dpbench.errors import DpbenchError
from dpbench.gate.check import load_side, run_check
from dpbench.gate.compare import _other_leakage, compare
from dpbench.gate.findings import Comparison, Finding, Tolerance
from dpbench.gate.outputs import append_summary, print_comparison, summary, workflow_commands, write_junit
from dpbench.records.store import CELLS

ROW = ("leaves", "resnet10t", "layer1", "gaussian", "noise_std=1.0", "decoder", "weights", "same", "1", "standard", "0")


@pytest.fixture(name="board")
def board_fixture() -> pd.DataFrame:
    figures = {
        "status": "ok",
        "images": 50,
        **{"ssim": 0.50, "ssim_low": 0.47, "ssim_high": 0.53},
        **{"psnr_db": 20.0, "psnr_db_low": 19.2, "psnr_db_high": 20.8},
        **{"lpips": 0.40, "lpips_low": 0.37, "lpips_high": 0.43},
        **{"leakage": 0.50, "leakage_low": 0.44, "leakage_high": 0.56},
        **{"reid_top1": 0.30, "reid_top1_low": 0.20, "reid_top1_high": 0.40},
        **{"accuracy": 0.70, "accuracy_low": 0.68, "accuracy_high": 0.72},
    }
    key = dict(zip(KEY, ROW, strict=True)) | {"releases": 1}
    return pd.DataFrame([key | figures, key | figures | {"attack": "worst-case"}])


def changed(board: pd.DataFrame, **values: object) -> pd.DataFrame:
    other = board.copy()
    for column, value in values.items():
        other[column] = other[column].astype(object)
        other.loc[0, column] = value
    return other


def kinds(candidate: pd.DataFrame, baseline: pd.DataFrame, **tolerance: float) -> list[str]:
    return [f.kind for f in compare(candidate, baseline, tolerance=Tolerance(**tolerance)).findings]


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


def test_workflow_commands_escape() -> None:
    row = ("a,b:c", *ROW[1:])
    findings = [
        Finding("leaks more", row, "50% up\nand\rmore"),
        Finding("missing figure", row, "x"),
        Finding("new", row, "y"),
    ]
    lines = workflow_commands(Comparison(findings, notes=["a: b"]))
    name = "a,b:c resnet10t layer1 | gaussian noise_std=1.0 | decoder (weights, seed 0)"
    assert lines == [
        f"::error title=dpbench%3A leaks more::{name}: 50%25 up and more",
        f"::warning title=dpbench%3A missing figure::{name}: x",
        f"::notice title=dpbench%3A new::{name}: y",
        "::notice title=dpbench%3A note::a: b",
    ]


def test_junit_has_a_case_per_row_with_its_failures(tmp_path: Path) -> None:
    other = (*ROW[:5], "a<b>&\x07", *ROW[6:])
    findings = [
        Finding("leaks more", ROW, "ssim up"),
        Finding("predicts worse", ROW, "accuracy down"),
        Finding("leaks less", other, "psnr <down>"),
        Finding("new", ("x", *ROW[1:]), "not in the baseline"),
    ]
    write_junit(Comparison(findings, [ROW, other]), tmp_path / "deep" / "junit.xml")
    root = ET.parse(tmp_path / "deep" / "junit.xml").getroot()
    suite = root[0]
    assert (suite.tag, suite.get("tests"), suite.get("failures")) == ("testsuite", "2", "1")
    first, second = suite.findall("testcase")
    assert first.get("classname") == "leaves.resnet10t.layer1"
    assert [f.text for f in first.findall("failure")] == ["leaks more: ssim up\npredicts worse: accuracy down"]
    assert first.find("failure").get("type") == "leaks more"  # type: ignore[union-attr]
    assert second.find("failure") is None
    assert second.findtext("system-out") == "leaks less: psnr <down>"
    assert "a<b>&" in str(second.get("name"))


def test_summary_is_markdown_that_cannot_be_broken(tmp_path: Path) -> None:
    row = (*ROW[:5], "a|b`<i>", *ROW[6:])
    text = summary(Comparison([Finding("leaks more", row, "[0.1, 0.2] -> 0.5")], [ROW] * 3, 5))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table[2].startswith("| **leaks more** | ")
    assert "a\\|b\\`&lt;i&gt;" in table[2]
    assert "\\[0.1, 0.2\\] -&gt; 0.5" in table[2]
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    append_summary(Comparison([], [ROW] * 3, 5), path)
    assert path.read_text().startswith("before\n## dpbench check\n\npassed: nothing got worse in 3 rows")
    with pytest.raises(DpbenchError, match="cannot be written"):
        append_summary(Comparison(), tmp_path / "no" / "folder.md")


def test_table_shows_markup_as_text() -> None:
    console = Console(file=io.StringIO(), width=200)
    finding = Finding("failed", (*ROW[:5], "[red]x[/red]", *ROW[6:]), "[bold]")
    print_comparison(Comparison([finding], [ROW], 2, ["[blue]"]), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.splitlines()[0].startswith("failed: ")
    assert "[red]x[/red]" in text
    assert "note: [blue]" in text
    assert "failed: 1 finding in 1 of 1 rows of the baseline, 2 figures compared" in text


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


def test_what_several_rows_share_fails_each_of_them_in_junit(board: pd.DataFrame, tmp_path: Path) -> None:
    same = board.assign(defense="none")
    moved = pd.concat([board.assign(seed="1"), same])
    write_junit(compare(moved, pd.concat([board, same]), tolerance=Tolerance()), tmp_path / "junit.xml")
    root = ET.parse(tmp_path / "junit.xml").getroot()
    assert (root.get("tests"), root.get("failures")) == ("4", "2")


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


def test_the_command_tolerates_by_default_what_the_table_says():
    options = inspect.signature(boards.check).parameters
    assert {name: options[name].default for name in Tolerance.model_fields} == Tolerance().model_dump()


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


def test_programs_read_verdict_and_findings(tmp_path: Path, dpbench: Any) -> None:
    board = build_board(make_grid(12, split_points=("layer1",)))
    write_board(board, tmp_path / "was.csv")
    write_board(board.assign(ssim=1.0, ssim_high=1.0), tmp_path / "now.csv")
    arguments = [
        "check",
        tmp_path / "now.csv",
        "--baseline",
        tmp_path / "was.csv",
        "--gitlab",
        tmp_path / "quality.json",
    ]
    outcome = dpbench(*arguments, "--json")
    assert (outcome.status, outcome.err) == (1, "")
    told = json.loads(outcome.out)
    assert (told["verdict"], told["rows"]) == ("failed", len(board))
    assert told["findings"][0].keys() == {"finding", "level", "fails", "message", "rows"}
    assert told["findings"][0]["fails"]
    assert dpbench(*arguments).out.splitlines()[0] == told["line"]
    same = dpbench("check", tmp_path / "was.csv", "--baseline", tmp_path / "was.csv", "--json")
    assert same.status == 0
    assert json.loads(same.out)["verdict"] == "passed"


def test_gitlab_reads_findings_as_code_quality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dpbench: Any) -> None:
    monkeypatch.chdir(tmp_path)
    board = build_board(make_grid(12, split_points=("layer1",)))
    (tmp_path / "ci").mkdir()
    write_board(board, tmp_path / "ci" / "was.csv")
    write_board(
        board.assign(ssim=1.0, ssim_high=1.0, lpips=np.nan, lpips_low=np.nan, lpips_high=np.nan), tmp_path / "n.csv"
    )
    monkeypatch.setenv("DPBENCH_GITLAB", "quality.json")
    assert dpbench("check", "n.csv", "--baseline", tmp_path / "ci" / "was.csv").status == 1
    entries = json.loads((tmp_path / "quality.json").read_text())
    assert {entry["severity"] for entry in entries} == {"critical", "minor"}
    assert len({entry["fingerprint"] for entry in entries}) == len(entries) > 2
    for entry in entries:
        assert entry.keys() == {"description", "check_name", "fingerprint", "severity", "location"}
        assert entry["location"] == {"path": "ci/was.csv", "lines": {"begin": 1}}
    first = (tmp_path / "quality.json").read_text()
    assert dpbench("check", "n.csv", "--baseline", tmp_path / "ci" / "was.csv").status == 1
    assert (tmp_path / "quality.json").read_text() == first
    assert dpbench("check", "ci/was.csv", "--baseline", "ci/was.csv").status == 0
    assert json.loads((tmp_path / "quality.json").read_text()) == []


def test_json_stays_json_in_github_actions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dpbench: Any) -> None:
    write_board(build_board([make_record()]), tmp_path / "board.csv")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "step.md"))
    outcome = dpbench("check", tmp_path / "board.csv", "--baseline", tmp_path / "board.csv", "--json")
    assert json.loads(outcome.out)["notes"] == ["candidate and baseline are the same: nothing can have got worse"]
    assert "passed: nothing got worse" in (tmp_path / "step.md").read_text()
