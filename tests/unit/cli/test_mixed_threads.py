"""A run whose cells were measured with different numbers of threads says so."""

import pytest
from record_factory import make_record

from dpbench.cli.running import mixed_threads


def with_threads(*counts):
    return [make_record().model_copy(update={"environment": {"threads": count}}) for count in counts]


@pytest.mark.parametrize("counts", [(), (2, 2), (1,), (None, 2), ("2", 2)])
def test_one_number_needs_no_word(counts):
    assert mixed_threads(with_threads(*counts)) == []


def test_several_are_named():
    (line,) = mixed_threads(with_threads(4, 1, 2, 1))
    assert line.startswith("measured with 1, 2 and 4 threads: ")
    assert "--threads" in line
