from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpbench.intervals import bounds, mean_interval, over_seeds, resampled_means, resampled_shares, share_interval

figures = st.lists(st.floats(-1, 100, allow_nan=False, width=32), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(figures)
def test_interval_holds_the_mean_and_stays_within_the_figures(values: list[float]) -> None:
    mean, low, high = mean_interval(np.array(values, dtype=np.float64))
    assert low <= mean <= high
    assert min(values) - 1e-9 <= low
    assert high <= max(values) + 1e-9
    assert mean == pytest.approx(np.mean(values))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_share_interval(hits: list[bool]) -> None:
    share, low, high = share_interval(hits)
    assert 0 <= low <= share <= high <= 1
    assert share == pytest.approx(np.mean(hits))


def test_intervals_agree_with_the_normal_approximation() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, 400)
    mean, low, high = mean_interval(values)
    assert (mean - low, high - mean) == pytest.approx((0.0098, 0.0098), rel=0.12)
    share, low, high = share_interval([True] * 300 + [False] * 100)
    assert (share - low, high - share) == pytest.approx((0.0424, 0.0424), rel=0.12)


def test_no_images_have_no_interval() -> None:
    assert np.isnan(mean_interval(np.array([]))).all()
    assert np.isnan(share_interval([])).all()


def names(count: int, first: int = 0) -> list[str]:
    return [f"v{index:04d}" for index in range(first, first + count)]


def test_the_same_victims_are_drawn_together_in_all_seeds() -> None:
    values = np.random.default_rng(0).normal(size=(50, 1))
    one, two = resampled_means([(names(50), values), (names(50), values + 1)])
    np.testing.assert_allclose(two - one, 1)
    # seeds that share only some of them: those are still drawn together
    one, two = resampled_means([(names(50), values), (names(40), values[:40])])
    assert np.corrcoef(one[:, 0], two[:, 0])[0, 1] > 0.7
    one, two = resampled_means([(names(50), values), (names(50, first=50), values)])
    assert abs(np.corrcoef(one[:, 0], two[:, 0])[0, 1]) < 0.1


def test_other_seeds_victims_do_not_make_an_empty_resample() -> None:
    one, two = resampled_means([(["a"], np.array([[1.0]])), (["b"], np.array([[2.0]]))])
    assert set(one[:, 0]) == {1.0}
    assert set(two[:, 0]) == {2.0}


def test_seeds_are_resampled_too() -> None:
    far = [np.zeros(2000), np.ones(2000), np.full(2000, 0.5)]
    low, high = bounds(over_seeds(far), 0.5)
    assert low < 0.2
    assert high > 0.8
    single = np.arange(2000.0)
    assert over_seeds([single]) is single


def test_shares_go_image_by_image() -> None:
    rng = np.random.default_rng(1)
    hits = (rng.random(500) < 0.7).tolist()
    same, again, opposite = resampled_shares([hits, hits, [not hit for hit in hits]])
    np.testing.assert_array_equal(same, again)
    np.testing.assert_allclose(same + opposite, 1)
    assert same.std() == pytest.approx(np.sqrt(0.21 / 500), rel=0.1)
    shorter = resampled_shares([hits, hits[:100]])
    assert shorter[1].std() == pytest.approx(np.sqrt(0.21 / 100), rel=0.2)
