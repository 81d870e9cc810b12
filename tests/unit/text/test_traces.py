"""Tracebacks as text to keep: bounded, cleaned, without the folders of a machine."""

import re
import sys
import traceback

import pytest

from dpbench.errors import LONGEST_TRACE, DpbenchError, _frame, cleaned_trace, debug, traced


def raised(function):
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        function()
    return caught.value


def deep(depth):
    if depth:
        return deep(depth - 1)
    raise ZeroDivisionError("at\nthe end")


def test_a_line_for_each_frame_and_one_for_what_was_raised():
    lines = traced(raised(lambda: deep(2))).splitlines()
    assert lines[-1].startswith("ZeroDivisionError: ")
    assert re.match(r"(.*/)?test_traces\.py:\d+ in deep: ", lines[-2])
    assert lines[-2].endswith('in deep: raise ZeroDivisionError("at\\nthe end")')


def test_folders_of_this_machine_are_not_told():
    def frame(path):
        return _frame(traceback.FrameSummary(path, 3, "run", line="x()"))

    assert frame("/home/me/secret/mine.py") == "mine.py:3 in run: x()"
    assert frame("/opt/lib/site-packages/torch/nn/x.py") == "torch/nn/x.py:3 in run: x()"
    assert frame("/home/me/dpbench/attacks/dpbench_attacks/rmle.py") == "dpbench_attacks/rmle.py:3 in run: x()"


def test_what_led_to_it_comes_first():
    def chained():
        try:
            deep(0)
        except ZeroDivisionError as error:
            raise DpbenchError("attack failed") from error

    text = traced(raised(chained))
    assert text.index("ZeroDivisionError") < text.index("DpbenchError: attack failed")


def test_it_is_bounded_however_deep_and_long():
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 1000))
    text = traced(raised(lambda: deep(400)))
    assert "... " in text
    assert len(text.splitlines()) < 40
    assert len(traced(raised(lambda: (_ for _ in ()).throw(ValueError("x" * 100_000))))) <= LONGEST_TRACE
    assert len(cleaned_trace("y" * 100_000 + "\n" + "z\n" * 100_000)) <= LONGEST_TRACE


def test_what_comes_from_elsewhere_does_nothing_but_be_read():
    text = cleaned_trace("a.py:1\n\x1b[31mred\u202e\n::error::x\n  indented")
    assert text.splitlines() == ["a.py:1", r"\x1b[31mred\u202e", ": :error: :x", "indented"]


def test_what_was_raised_in_another_process_is_told_too(monkeypatch, capsys):
    error = DpbenchError("attack 'x': it broke")
    error.far = "x.py:3 in reconstruct: return 1 / 0"
    assert traced(error).splitlines()[0] == error.far
    debug(error)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("DPBENCH_DEBUG", "1")
    debug(error)
    told = capsys.readouterr().err
    assert "in a process of its own:" in told
    assert error.far in told
