"""What the gate writes: for people, for GitHub, for GitLab, for programs."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from gate_boards import ROW, two_rows
from record_factory import make_grid, make_record
from rich.console import Console

from dpbench.board.files import write_board
from dpbench.board.leaderboard import build_board
from dpbench.errors import DpbenchError
from dpbench.gate.compare import compare
from dpbench.gate.findings import Comparison, Finding, Tolerance
from dpbench.gate.outputs import append_summary, print_comparison, summary, workflow_commands, write_junit


@pytest.fixture(name="board")
def board_fixture() -> pd.DataFrame:
    return two_rows()


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


def test_what_several_rows_share_fails_each_of_them_in_junit(board: pd.DataFrame, tmp_path: Path) -> None:
    same = board.assign(defense="none")
    moved = pd.concat([board.assign(seed="1"), same])
    write_junit(compare(moved, pd.concat([board, same]), tolerance=Tolerance()), tmp_path / "junit.xml")
    root = ET.parse(tmp_path / "junit.xml").getroot()
    assert (root.get("tests"), root.get("failures")) == ("4", "2")


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
