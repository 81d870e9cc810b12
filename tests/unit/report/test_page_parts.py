"""What pages are made of: words for figures, marks of defenses, curves, fronts, and the library that draws."""

import math
from pathlib import Path

import pytest
from record_factory import make_record

from dpbench.board.columns import ORDER
from dpbench.contract.defense import Defense
from dpbench.protocols.sharing.reporting.columns import COLUMNS as SHARING_COLUMNS
from dpbench.protocols.sharing.reporting.columns import OPTIONAL_COLUMNS
from dpbench.report import page, plots
from dpbench.report.boards import commands
from dpbench.report.content import Cell, Column, Line, Table
from dpbench.report.glossary import meaning_of
from dpbench.report.levels import broken, level_of, percent
from dpbench.reporting.plots.marks import mark_of, symbol_of
from dpbench.suite.words import built_in

FLOOR = {"ssim": 0.2, "ssim_high": 0.25, "reid_top1": 0.0, "reid_top1_high": 0.1}


def row(ssim, low=None, reid=math.nan, reid_low=math.nan):
    return {"ssim": ssim, "ssim_low": ssim if low is None else low, "reid_top1": reid, "reid_top1_low": reid_low}


@pytest.mark.parametrize(
    ("figures", "name"),
    [
        (row(0.9), "yes"),
        (row(0.8), "yes"),
        (row(0.79), "partly"),
        (row(0.5), "partly"),
        (row(0.49), "traces"),
        (row(0.26), "traces"),
        (row(0.25), "no"),
        (row(0.9, low=0.2), "no"),  # its interval reaches down to a blind guess
        (row(math.nan), "unknown"),
    ],
)
def test_ssim_in_words(figures, name):
    assert level_of(figures, FLOOR).name == name


def test_broken_means_seen_or_named():
    assert broken(row(0.6), FLOOR)
    assert not broken(row(0.4), FLOOR)
    assert broken(row(0.2, reid=0.5, reid_low=0.3), FLOOR)
    assert not broken(row(0.2, reid=0.2, reid_low=0.05), FLOOR)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0%"), (0.001, "under 1%"), (0.83, "83%"), (0.999, "over 99%"), (1.0, "100%"), (math.nan, "\u2013")],
)
def test_all_and_nothing_are_said_only_where_it_is_so(value, text):
    assert percent(value) == text


def test_no_two_built_in_defenses_look_alike():
    marks = [mark_of(name) for name in built_in(Defense)]
    assert len(set(marks)) == len(marks)
    assert {symbol_of(name)[0] for name in built_in(Defense)} == {colour for colour, _ in marks}


def test_a_mark_depends_on_the_name_alone():
    assert mark_of("gaussian") == mark_of("gaussian")
    assert mark_of("none")[1] == mark_of("")[1] == "\u2605"


def test_a_setting_that_another_beats_in_both_is_not_on_the_front():
    rows = [
        {"name": "a", "accuracy": 0.9, "ssim": 0.9},
        {"name": "b", "accuracy": 0.8, "ssim": 0.5},
        {"name": "beaten", "accuracy": 0.7, "ssim": 0.6},
        {"name": "c", "accuracy": 0.6, "ssim": 0.2},
        {"name": "unknown", "accuracy": 0.95, "ssim": math.nan},
    ]
    assert [one["name"] for one in plots.pareto(rows, "ssim")] == ["a", "b", "c"]


def noted(**notes):
    return make_record(defense="gaussian", defense_args={"std": 1.0}).model_copy(update={"notes": notes})


def test_what_attacks_logged_becomes_curves():
    plot = plots.curves([noted(curves={"loss": [[1, 0.9], [5, 0.1]]}, ssim=[0.1, 0.2, 0.3]), noted(final_loss=0.1)])
    assert list(plot.figures) == ["loss", "ssim"]
    assert plot.figures["loss"]["data"][0]["x"] == (1.0, 5.0)
    assert plot.figures["ssim"]["data"][0]["x"] == (0.0, 1.0, 2.0)
    assert "gaussian" in plot.figures["loss"]["data"][0]["name"]


def test_a_curve_of_a_stranger_has_a_name_that_a_page_can_choose():
    """What the list of a page shows, cleaned and escaped, is by what its script finds the figure."""
    plot = plots.curves([noted(curves={"<b>::\x1b": [1.0, 2.0]})])
    assert list(plot.figures) == ["<b>: :\\x1b"]
    assert plot.figures["<b>: :\\x1b"]["layout"]["yaxis"]["title"]["text"] == "&lt;b&gt;: :\\x1b"


@pytest.mark.parametrize(
    "notes",
    [
        {},
        {"curves": [1]},
        {"curves": {"loss": "text"}},
        {"curves": {"loss": [1, "x"]}},
        {"curves": {"loss": [[1, None], [2, 3]]}},
        {"curves": {"loss": [1.0, math.inf]}},
        {"loss": [10**400, 1]},
        {"fallbacks": []},
        {"fallbacks": ["a", "b"]},
    ],
)
def test_other_notes_are_no_curves(notes):
    assert plots.curves([noted(**notes)]) is None


def test_values_of_a_table_are_text_and_figures_are_sorted_by_what_they_say():
    columns = [Column("name"), Column("figure", numeric=True), Column("more", main=False)]
    lines = [
        Line([Cell("<b>"), Cell("0.5000", 0.5), Cell("7", 7.0)], colour="#123456", marker="x"),
        Line([Cell("a", about='"q"'), Cell("50%", 0.5, "yes"), Cell("", math.nan)], group="w"),
    ]
    assert str(page._rows(Table(columns, lines), headed=True)).splitlines() == [
        '<tr><th scope=row><span class="sign" aria-hidden="true" style="color:#123456">x</span> &lt;b&gt;<td>0.5000'
        '<td data-order="7.0">7</tr>',
        '<tr data-group="w"><th scope=row title="&#34;q&#34;">a<td data-order="0.5"><span class="level yes">50%</span>'
        "<td></tr>",
    ]
    places = page._places("main", [*columns, *columns[1:]])
    assert "#main td:nth-child(n+2):nth-child(-n+2), #main td:nth-child(n+4):nth-child(-n+4) { text-align" in places
    assert page._at("td", [3, 4, 5]) == "td:nth-child(n+3):nth-child(-n+5)"


def test_every_column_of_a_board_is_explained():
    assert {column for column in (*ORDER, *SHARING_COLUMNS, *OPTIONAL_COLUMNS) if not meaning_of(column)} == set()
    assert meaning_of("gain_low") == "lower end of the 95% interval of gain"
    assert meaning_of("mine") == meaning_of("mine_low") == ""


def test_commands_do_not_say_where_a_run_lies(tmp_path):
    assert str(tmp_path) not in str(commands([make_record()], tmp_path / "quick"))
    assert "dpbench verify quick" in str(commands([make_record()], tmp_path / "quick"))


def test_commands_that_are_copied_into_a_shell_run_nothing_else():
    record = make_record().model_copy(update={"suite": "quick; echo $(id)"})
    lines = [command for command, _ in commands([record], Path("a run; id"))]
    assert lines[:2] == ["dpbench run 'quick; echo $(id)'", "dpbench verify 'a run; id'"]
