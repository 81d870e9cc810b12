"""Tables that others open: what a stranger wrote is text in a spreadsheet and in Markdown, and is read as it was."""

import csv
import io
import math

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dpbench.text.curves import is_figure
from dpbench.text.shown_text import drawn
from dpbench.text.tables import csv_text, in_markdown, unmarked

FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "'=1", "-", "--x"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_text_is_a_formula(text):
    table = csv_text(pd.DataFrame({"name": [text], "figure": [-0.5]}))
    ((_, _), (name, figure)) = csv.reader(io.StringIO(table))
    assert name == f"'{text}"
    assert figure == "-0.5"


@pytest.mark.parametrize("text", ["-0.1234", "+3", "-1e-05", "gaussian", "a=b", "it's", "'quoted'", ""])
def test_numbers_and_plain_texts_stay_as_they_are(text):
    assert csv_text(pd.DataFrame({"name": [text, "b"]})) == pd.DataFrame({"name": [text, "b"]}).to_csv(
        index=False, lineterminator="\n"
    )


@given(st.text(max_size=12))
@example("''=x")
@example("a\r\nb\rc")
def test_what_is_written_is_read_as_it_was(text):
    ((_, _), (name, _)) = csv.reader(io.StringIO(csv_text(pd.DataFrame({"name": [text], "other": [1]})), newline=""))
    assert unmarked(name) == text.replace("\r\n", "\n").replace("\r", "\n")


def test_columns_that_hold_no_text_keep_their_type():
    table = pd.DataFrame({"count": pd.array([1, None], dtype="Int64"), "figure": [0.25, math.nan], "name": ["a", None]})
    assert csv_text(table) == table.to_csv(index=False, lineterminator="\n")


def test_a_cell_of_markdown_shows_nothing_but_its_text():
    assert in_markdown("a\\|b") == "a\\\\\\|b"  # else the backslash would free the bar
    assert in_markdown("![x](http://example.org/x.png) <b>&`*") == (
        "![x]\\(http://example.org/x.png) &lt;b>&amp;\\`\\*"
    )
    assert in_markdown("0.50 [0.40, 0.60]") == "0.50 [0.40, 0.60]"


def test_a_name_that_begins_with_an_underscore_has_its_place_in_a_legend():
    assert (drawn("_mine"), drawn("mine_")) == (" _mine", "mine_")


@pytest.mark.parametrize(
    ("value", "is_one"),
    [
        *((1, True), (0.5, True), (-(2**70), True)),
        *((10**400, False), (math.inf, False), (math.nan, False), (True, False), ("1", False), (None, False)),
    ],
)
def test_figures(value, is_one):
    assert is_figure(value) is is_one
