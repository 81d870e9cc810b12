"""What an attack logs is bounded, finite, and spread over all its steps."""

import itertools
import math

import pytest

from dpbench.text.curves import MOST_CURVES, MOST_POINTS, keep_point


def logged(steps, figure=lambda step: step / 2):
    curves = {}
    for step in steps:
        keep_point(curves, "loss", step, figure(step))
    return curves["loss"]


def test_a_short_curve_is_kept_as_it_is():
    assert logged(range(5)) == [[step, step / 2] for step in range(5)]


@pytest.mark.parametrize("steps", [range(201), range(100_000), range(0, 7000, 7), [10**9, *range(300)]])
def test_a_long_curve_stays_short_with_its_first_and_last_step(steps):
    curve = logged(steps)
    assert len(curve) <= MOST_POINTS
    assert min(step for step, _ in curve) == min(steps)
    assert max(step for step, _ in curve) == max(steps)
    assert all(value == step / 2 for step, value in curve)


def test_a_long_curve_is_spread_over_all_steps():
    steps = [step for step, _ in logged(range(10_000))]
    assert max(after - before for before, after in itertools.pairwise(steps)) < 300


def test_what_is_no_finite_number_leaves_a_gap():
    assert logged(range(4), lambda step: [1.0, math.nan, math.inf, 2.0][step]) == [[0, 1.0], [3, 2.0]]
    curves = {}
    keep_point(curves, "loss", 3, 1.0)
    keep_point(curves, "loss", 3, 2.0)
    assert curves == {"loss": [[3, 2.0]]}


def test_what_is_no_number_is_refused():
    for figure in ("low", None, [1.0, 2.0], {}):
        with pytest.raises(ValueError, match="expected one number"):
            keep_point({}, "loss", 0, figure)
    curves = {f"curve{number}": [] for number in range(MOST_CURVES)}
    with pytest.raises(ValueError, match=f"there are {MOST_CURVES} curves already"):
        keep_point(curves, "more", 0, 1.0)
    keep_point(curves, "curve0", 0, 1.0)
    with pytest.raises(ValueError, match="a name has at most"):
        keep_point({}, "x" * 100, 0, 1.0)
