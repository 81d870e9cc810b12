"""Whatever plug-ins say becomes plain JSON of a sane size."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from record_factory import make_record

from dpbench.errors import reason
from dpbench.records import store
from dpbench.text.plain_values import LONGEST, plain


class Spiteful:
    def __str__(self):
        raise RuntimeError("no")


def _cycle():
    one = {}
    one["self"] = [one]
    return one


def _bushy():
    value = [0]
    for _ in range(60):
        value = [value, value]
    return value


SAID = {
    "nan": ({"a": math.nan, "b": -math.inf}, {"a": "nan", "b": "-inf"}),
    "bytes": ({"a": b"\xffx"}, {"a": "\\xffx"}),
    "surrogate": ({"\ud800": "\udcff"}, {"\\ud800": "\\udcff"}),
    "keys": ({1: 2, None: 3, (4, 5): 6}, {"1": 2, "None": 3, "(4, 5)": 6}),
    "sets": ({"a": {"c", "b"}}, {"a": ["b", "c"]}),
    "tensors": ({"a": torch.tensor([1.5, 2.5]), "b": torch.tensor(3)}, {"a": [1.5, 2.5], "b": 3}),
    "integers": ({"a": 2**70}, {"a": hex(2**70)}),
    "cycles": (_cycle(), {"self": ["..."]}),
    "spite": ({"a": Spiteful()}, {"a": "Spiteful that cannot be read: RuntimeError"}),
    "plain": ({"a": [1, 2.5, "x", None, True]}, {"a": [1, 2.5, "x", None, True]}),
}


@pytest.mark.parametrize("name", SAID)
def test_notes_become_plain_json(tmp_path, name):
    said, expected = SAID[name]
    assert plain(said) == expected
    record = make_record().model_copy(update={"notes": plain(said)})
    assert store.CELLS.write(tmp_path, record).status == "ok"
    (read,) = store.CELLS.all(tmp_path)
    assert read.notes == expected


def test_notes_are_of_a_sane_size():
    assert len(plain("x" * 10**6)) == LONGEST + 3
    assert len(json.dumps(plain({"a": list(range(10**6))}))) < 20 * LONGEST
    assert len(json.dumps(plain(_bushy()))) < 20 * LONGEST
    assert plain(10**5000).startswith("0x")


@given(
    st.recursive(
        st.none() | st.floats() | st.integers() | st.text() | st.binary(),
        lambda c: st.lists(c) | st.dictionaries(st.text(), c),
    )
)
def test_whatever_is_said_is_plain_json(value):
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == plain(value)


def test_reasons_are_one_line_that_can_be_stored():
    class Silent(Exception):
        def __str__(self):
            raise RuntimeError("no")

    assert reason(Silent()) == "Silent: (its message cannot be shown)"
    assert reason(SystemExit(0)) == "SystemExit: 0"
    assert reason(ValueError("a\nb\udcff")) == "ValueError: a b\\udcff"
    assert len(reason(ValueError("x" * 10**6))) < 2 * LONGEST
