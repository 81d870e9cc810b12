"""The Pareto plot, the table at equal accuracy, and the command that gives both."""

import io

import pandas as pd
import pytest
from drawn_axes import axes_drawn
from record_factory import make_grid, make_record
from rich.console import Console

from dpbench.board.columns import WORST_CASE
from dpbench.board.leaderboard import build_board
from dpbench.protocols.known import DEFAULT
from dpbench.records.store import CELLS
from dpbench.report.cost_plot import costs
from dpbench.reporting.plots import pareto_plot
from dpbench.reporting.plots.marks import style_of_defense
from dpbench.reporting.plots.pareto_plot import write_pareto
from dpbench.reporting.plots.plot_style import NOTE, with_labels
from dpbench.reporting.plots.tradeoff_plot import plotted_rows, styles_of
from dpbench.reporting.selection import short_arguments
from dpbench.tradeoffs.equal_accuracy import NOT_REACHED, print_equal_accuracy
from dpbench.tradeoffs.fronts import families


@pytest.fixture(scope="module")
def records():
    grid = make_grid(12, split_points=("layer1",))
    bits = {"quantise": 8192}
    return [one.model_copy(update={"release_bits": bits.get(one.cell.defense.name, 131072)}) for one in grid]


@pytest.fixture(scope="module")
def board(records):
    return build_board(records)


def drawn(board, path, monkeypatch):
    """The axes of the plot."""

    def draw():
        assert write_pareto(board, path)

    return axes_drawn(monkeypatch, pareto_plot, draw)


def test_the_plot_has_a_panel_for_accuracy_and_one_for_each_cost_that_differs(board, tmp_path, monkeypatch):
    accuracy, bits = drawn(board, tmp_path / "pareto.png", monkeypatch)
    assert "points of accuracy lost" in accuracy.get_xlabel()
    assert "up = leaks more" in accuracy.get_ylabel()
    assert bits.get_xlabel().startswith("bits of a release")
    lines = {line.get_label(): line for line in accuracy.get_lines()}
    steps = lines["front"].get_xydata()
    assert (steps[1:, 0] > steps[:-1, 0]).all()
    assert (steps[1:, 1] < steps[:-1, 1]).all()
    assert "hypervolume" in accuracy.texts[-1].get_text() or any(
        "hypervolume" in one.get_text() for one in accuracy.texts
    )


def test_many_panels_stand_in_rows_and_of_many_settings_the_front_alone_is_named(board, tmp_path, monkeypatch):
    monkeypatch.setattr(pareto_plot, "ABREAST", 1)
    every = drawn(board, tmp_path / "pareto.png", monkeypatch)
    assert [axes.get_subplotspec().rowspan.start for axes in every] == [0, 1]
    told = [one.get_text() for one in every[0].texts if one.get_gid() == NOTE]
    monkeypatch.setattr(pareto_plot, "MOST_NOTED", 2)
    (accuracy, _) = drawn(board, tmp_path / "pareto.png", monkeypatch)
    fewer = [one for one in accuracy.texts if one.get_gid() == NOTE]
    front = next(line for line in accuracy.get_lines() if line.get_label() == "front").get_xydata().tolist()
    assert 0 < len(fewer) < len(told)
    assert all(list(map(float, one.xy)) in front for one in fewer)
    assert all(one.get_text().split()[0] in set(board["defense"]) for one in fewer)


def test_a_defense_has_one_name_in_the_legend_where_one_panel_has_more_of_its_settings(tmp_path, monkeypatch):
    board = build_board(make_grid(12))
    alone = (board["split_point"] == "layer2") & board["defense_args"].str.contains("noise_std=[12]")
    axes = drawn(board[~alone], tmp_path / "pareto.png", monkeypatch)
    names = {name for one in axes for name in one.get_legend_handles_labels()[1]}
    assert {name for name in names if "gaussian" in name} == {"gaussian (noise_std)"}


def test_a_cost_that_all_settings_share_has_no_panel_and_nothing_is_drawn_of_nothing(board, tmp_path, monkeypatch):
    same = board.assign(release_bits=pd.array([8] * len(board), dtype="Int64"))
    assert len(drawn(same, tmp_path / "pareto.svg", monkeypatch)) == 1
    assert not write_pareto(board[board["defense"] == "none"], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_a_defense_has_one_colour_whoever_stands_beside_it_and_whatever_it_is_called(board):
    alone = board[board["defense"].isin(["none", "gaussian"])]
    renamed = with_labels(board.copy(), {"gaussian": "Ours"})
    expected = style_of_defense("gaussian")
    assert styles_of(plotted_rows(board))["gaussian"] == styles_of(plotted_rows(alone))["gaussian"] == expected
    assert styles_of(plotted_rows(renamed))["Ours"] == expected
    assert styles_of(plotted_rows(board))["none"] == ("black", "*")


def printed(board, found):
    console = Console(file=io.StringIO(), width=160)
    print_equal_accuracy(board, found, console)
    return " ".join(console.file.getvalue().split())


def test_the_table_reads_off_or_says_that_it_cannot(records, board):
    text = printed(board, list(families(board, DEFAULT.rows(records))))
    assert "resnet10t split at layer1, seed 0" in text
    assert NOT_REACHED in text
    assert "10 points" in text
    assert "not privacy" in text


def test_what_does_not_compete_is_named_with_its_reason():
    reference = [make_record(attack="mean-image", ssim=0.1), make_record(ssim=0.9)]
    lacking = [make_record(defense="dpm", ssim=0.4), make_record(defense="dpm", attack="rmle", failed="out of memory")]
    board = build_board([*reference, *lacking])
    text = printed(board, list(families(board, {})))
    assert "nothing to compare" in text
    assert "left out, their worst case is incomplete: dpm (layer1)" in text


def test_the_command_prints_the_table_writes_the_columns_and_the_plot(records, tmp_path, dpbench):
    for record in records:
        CELLS.write(tmp_path / "run", record)
    plain = dpbench("leaderboard", tmp_path / "run", "--output", tmp_path / "plain.csv")
    shown = dpbench("leaderboard", tmp_path / "run", "--equal-accuracy")
    both = dpbench("leaderboard", tmp_path / "run", "--equal-accuracy", "--output", tmp_path / "wide.csv")
    assert plain.status == shown.status == both.status == 0
    assert "hypervolume" in shown.out
    assert "hypervolume" not in plain.out
    assert "on_front" not in (tmp_path / "plain.csv").read_text()
    wide = pd.read_csv(tmp_path / "wide.csv")
    worst = wide[(wide["attack"] == WORST_CASE) & (wide["threat_model"] == "weights")]
    assert set(worst["on_front"]) == {"yes", "no"}
    assert worst[worst["defense"] == "gaussian"]["hypervolume"].notna().all()
    plot = dpbench("leaderboard", tmp_path / "run", "--plot", "pareto", "--output", tmp_path / "pareto.pdf")
    assert plot.status == 0
    assert (tmp_path / "pareto.pdf").read_bytes().startswith(b"%PDF")
    missing = dpbench("leaderboard", tmp_path / "run")
    assert missing.status == 2
    assert "expected --output FILE, --equal-accuracy or --portfolio" in missing.err


def test_the_page_plots_costs_where_they_differ(board):
    short = short_arguments(board)
    plot = costs("leaves", board, short)
    (figure,) = plot.figures.values()
    names = {trace["name"].removesuffix(", loses more") for trace in figure["data"]}
    assert {"Pareto front", "undefended", "quantise"} <= names
    assert "hypervolume" in plot.about
    assert costs("leaves", board.assign(release_bits=8), short) is None
