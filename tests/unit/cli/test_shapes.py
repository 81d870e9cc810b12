"""How wide things are printed, how help is set, and what `list suites NAME` gives."""

import io

import pytest
from record_factory import make_grid, make_record
from rich.console import Console

from dpbench.board.leaderboard import build_board
from dpbench.cli import endings
from dpbench.cli.app import app
from dpbench.reporting.table import print_table
from dpbench.suite.files import built_in_suites
from dpbench.text.terminal import WIDE, make_console


def test_logs_and_files_are_wide_and_a_terminal_is_what_it_is(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert make_console().width == WIDE
    monkeypatch.setenv("COLUMNS", "91")
    assert make_console().width == 91


def printed(width):
    console = Console(file=io.StringIO(), width=width)
    print_table(build_board(make_grid(12, split_points=("layer1",))), console)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [70, 80, WIDE])
def test_static_stands_beside_worst_at_any_width(width):
    text = printed(width)
    heading = text.partition("─")[0].splitlines()
    assert "worst" in " ".join(heading)
    assert any("static" in line for line in heading)
    assert ("left out for lack of width" in text) == (width < WIDE)


def test_what_is_spared_first_is_what_tells_least():
    records = [*make_grid(12, split_points=("layer1",))]
    records += [make_record(defense="dpm", auxiliary="shifted", attack=f"attack{n}", victims=12) for n in range(4)]
    console = Console(file=io.StringIO(), width=64)
    print_table(build_board(records), console)
    left_out = " ".join(console.file.getvalue().partition("left out for lack of width: ")[2].split()).partition("SSIM")[
        0
    ]
    assert "worst static" not in left_out
    assert "worst weights shifted" in left_out


def test_help_is_one_line_for_each_paragraph():
    for command in app.registered_commands:
        for paragraph in command.help.split("\n\n"):
            assert "\n" not in paragraph


@pytest.mark.parametrize("name", ["quick", "sharing"])
def test_list_shows_the_text_of_one_suite(dpbench, name, tmp_path):
    outcome = dpbench("list", "suites", name)
    assert (outcome.status, outcome.out) == (0, built_in_suites()[name])
    listed = dpbench("list", "suites", "qui*")
    assert listed.out.startswith("quick")
    assert "[dataset]" not in listed.out
    assert dpbench("list", "suites", name, "--json").out.startswith("[")


def test_help_that_nobody_reads_to_its_end_is_no_fault(capsys):
    ended = SystemExit(1)  # as rich, which prints the help, ends where the pipe is closed
    ended.__context__ = BrokenPipeError()
    assert endings.ending(ended) == endings.BROKEN_PIPE
    assert capsys.readouterr().err == ""
