"""A reader's own matplotlib settings change no plot, and a plot that cannot be drawn costs no table."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
from record_factory import make_grid
from rich.console import Console
from tiny_suite import SUITE

from dpbench.board.leaderboard import build_board
from dpbench.errors import DpbenchError
from dpbench.reporting.plots.plot_style import draw_or_say
from dpbench.reporting.plots.tradeoff_plot import write_tradeoff

DRAW = """
from dpbench.reporting.plots.plot_style import default_style
@default_style()
def draw():
    from matplotlib.figure import Figure
    figure = Figure()
    figure.subplots().set_title("a_b %")
    figure.savefig("plot.png")
draw()
"""


def test_settings_take_no_part_and_are_left_alone(tmp_path: Path) -> None:
    board = build_board(make_grid(8, split_points=("layer1",)))
    write_tradeoff(board, tmp_path / "plain.png")
    with matplotlib.rc_context({"text.usetex": True, "lines.linewidth": 9.0, "figure.dpi": 10}):
        write_tradeoff(board, tmp_path / "own.png")
        assert matplotlib.rcParams["text.usetex"]
        assert matplotlib.rcParams["lines.linewidth"] == 9.0
    assert (tmp_path / "own.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


@pytest.mark.parametrize(
    ("settings", "variables"),
    [
        (b"text.usetex: True\nbackend: TkAgg\n", {}),
        (b"font.family: \xff\xfe\n", {}),
        (b"nonsense: 1\nbackend: nope\naxes.prop_cycle: x\n", {}),
        (b"", {"MPLBACKEND": "nope"}),
        (b"", {"MPLBACKEND": "module://no.such"}),
    ],
)
def test_broken_settings_break_no_plot(tmp_path: Path, settings: bytes, variables: dict[str, str]) -> None:
    (tmp_path / "matplotlibrc").write_bytes(settings)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    given = [sys.executable, "-c", DRAW]
    done = subprocess.run(given, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


def test_what_cannot_be_drawn_is_a_line() -> None:
    def fails() -> None:
        raise RuntimeError("latex was not\nable to process")

    console = Console(file=io.StringIO(), width=60)
    plots = {"a.png": lambda: None, "b.png": fails, "c.png": lambda: False, "d.png": lambda: True}
    assert draw_or_say(plots, console) == ["a.png", "d.png"]
    said = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(said) == 1
    assert said[0].startswith("no b.png: RuntimeError: latex was not able to process (test_plot_style.py, line")

    def full() -> None:
        raise DpbenchError("the disk is full")

    with pytest.raises(DpbenchError, match="the disk is full"):
        draw_or_say({"a.png": full}, console)


def test_a_run_whose_plots_fail_has_its_table(dpbench, tmp_path: Path, monkeypatch) -> None:
    def fails(*given: object) -> None:
        raise RuntimeError("no plot today")

    monkeypatch.setattr("dpbench.protocols.inference.protocol.write_tradeoff", fails)
    (tmp_path / "tiny.toml").write_text(SUITE)
    outcome = dpbench("run", tmp_path / "tiny.toml", "--output", tmp_path / "run")
    assert (outcome.status, outcome.err) == (0, "")
    assert "resnet10t split at layer1" in outcome.out
    assert "no tradeoff.png: RuntimeError: no plot today" in outcome.out
    assert outcome.out.splitlines()[-1].endswith(
        "board.csv, overview.png, report.html, and a picture per cell in pictures/"
    )
    assert (tmp_path / "run" / "board.csv").is_file()
