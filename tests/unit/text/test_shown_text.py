"""Text from strangers: shown in one line that does nothing."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpbench.text.shown_text import UNSEEN, clean, drawn

HOSTILE = {
    "\x1b[31mred\x1b[0m": r"\x1b[31mred\x1b[0m",
    "a\u202egnp.exe": r"a\u202egnp.exe",
    "zero\u200bwidth": r"zero\u200bwidth",
    "two\nlines\r\nand\u2028more\x85still": "two lines and more still",
    "\udcff": r"\udcff",
    "::error file=a::b": ": :error file=a: :b",
    "::::set-output": ": : : :set-output",
    "##[error]no": "# #[error]no",
    "##vso[task.complete]": "# #vso[task.complete]",
    "\U000e0041tag": r"\U000e0041tag",
    "as it was: é 日本 | 50%": "as it was: é 日本 | 50%",
}


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_shown_does_nothing(text):
    assert clean(text) == HOSTILE[text]


def test_what_is_long_is_cut():
    assert clean("x" * 300) == "x" * 300
    assert clean("x" * 301) == "x" * 297 + "..."
    assert len(clean("\x1b" * 10_000_000)) == 300
    assert len(clean(" " * 5000 + "x")) <= 300


def test_what_is_drawn_is_no_mathematics():
    assert drawn(r"$\frac$") == r"\$\frac\$"


@given(st.text(alphabet=st.characters()) | st.text(alphabet="::##[\n\x1b \u202e"))
def test_nothing_hostile_is_left(text):
    shown = clean(text)
    assert not any(unicodedata.category(char) in UNSEEN for char in shown)
    assert not any(mark in shown for mark in ("::", "##[", "##vso", "\n", "\u2028"))
    assert len(shown) <= 300
    assert clean(shown) == shown
    shown.encode("utf-8")
