"""Fronts, what they enclose, and leakage at equal accuracy: against figures worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from record_factory import make_record

from dpbench.board.columns import WORST_CASE, tidy
from dpbench.board.files import read_board, write_board
from dpbench.board.leaderboard import build_board
from dpbench.metrics.intervals import RESAMPLES
from dpbench.protocols.known import DEFAULT
from dpbench.service.costs import ClientCost
from dpbench.tradeoffs.fronts import (
    LOSSES,
    Drawn,
    compared,
    families,
    front,
    hypervolume,
    interval_at,
    read_off,
    with_fronts,
)

NAN = math.nan


@pytest.mark.parametrize(
    ("points", "places"),
    [
        ([], []),
        ([(0.5, 0.5)], [0]),
        ([(0.3, 0.2), (0.1, 0.8), (0.2, 0.9)], [1, 0]),  # by rising cost; the last is beaten in both
        ([(0.1, 0.5), (0.2, 0.5)], [0]),  # leaks as much and costs more
        ([(0.1, 0.5), (0.1, 0.4)], [1]),  # costs as much and leaks less
        ([(0.1, 0.5), (0.1, 0.5)], [0, 1]),  # equal: neither beats the other
        ([(0.2, 0.5), (0.1, 0.5), (0.2, 0.5)], [1]),
        ([(NAN, 0.1), (0.1, NAN), (0.2, 0.3)], [2]),
        ([(-0.02, 0.9), (0.0, 1.0)], [0]),  # predicts better than without
    ],
)
def test_the_front_holds_what_no_other_point_beats(points, places):
    assert front(points) == places


def test_the_front_is_that_of_the_definition():
    rng = np.random.default_rng(3)
    points = [(float(x), float(y)) for x, y in rng.integers(0, 8, (60, 2)) / 8]
    free = {
        place
        for place, one in enumerate(points)
        if not any(other != one and other[0] <= one[0] and other[1] <= one[1] for other in points)
    }
    assert set(front(points)) == free
    assert len(front(points)) == len(free)


@pytest.mark.parametrize(
    ("points", "area"),
    [
        ([], 0.0),
        ([(0.0, 0.0)], 1.0),
        ([(0.0, 1.0)], 0.0),  # the undefended model
        ([(0.05, 0.0)], 0.5),
        ([(0.05, 0.5)], 0.25),
        ([(0.02, 0.75), (0.06, 0.25)], 0.4 * 0.25 + 0.4 * 0.75),
        ([(0.06, 0.25), (0.06, 0.25), (0.02, 0.75), (0.07, 0.3)], 0.4),  # ties and beaten points add nothing
        ([(0.1, 0.0)], 0.0),  # on the border of the rectangle
        ([(0.3, 0.0)], 0.0),
        ([(-0.02, 0.5)], 0.5),  # a gain counts as no loss
        ([(-0.02, 0.8), (-0.01, 0.5)], 0.5),
        ([(NAN, 0.0), (0.05, NAN)], 0.0),
    ],
)
def test_the_hypervolume_is_the_area_of_a_known_polygon(points, area):
    assert hypervolume(points) == pytest.approx(area)
    assert hypervolume(points[::-1]) == pytest.approx(area)


def test_the_hypervolume_takes_any_reference():
    assert hypervolume([(1.0, 1.0)], (2.0, 4.0)) == pytest.approx(3 / 8)


CURVE = [(0.0, 0.9), (0.02, 0.5), (0.06, 0.1), (0.03, 0.7)]


@pytest.mark.parametrize(
    ("cost", "leak"),
    [(0.0, 0.9), (0.01, 0.7), (0.02, 0.5), (0.03, 0.4), (0.05, 0.2), (0.06, 0.1), (-0.001, None), (0.0601, 0.1)],
)
def test_leakage_is_linear_between_neighbours_on_the_front_and_the_last_beyond(cost, leak):
    found = read_off(CURVE, cost)
    assert found == (leak if leak is None else pytest.approx(leak))


def test_a_single_setting_is_read_from_its_loss_on_and_not_before():
    assert read_off([(0.03, 0.4)], 0.03) == 0.4
    assert read_off([(0.03, 0.4)], 0.05) == 0.4
    assert read_off([(0.03, 0.4)], 0.01) is None
    assert read_off([], 0.01) is None
    assert read_off([(NAN, 0.4)], 0.01) is None


def drawn(loss, leak, spread=0.0, images=32, seed=0):
    noise = np.random.default_rng(seed).normal(0, 1, RESAMPLES)
    return Drawn(np.full(RESAMPLES, loss), leak + spread * noise, images)


def test_the_interval_holds_the_reading_and_is_as_wide_as_what_is_resampled():
    points = [(0.0, 0.8), (0.04, 0.4)]
    exact = interval_at(points, [drawn(*point) for point in points], 0.02)
    assert exact == pytest.approx((0.6, 0.6))
    low, high = interval_at(points, [drawn(*point, spread=0.05) for point in points], 0.02)
    assert low < 0.6 < high
    assert high - low == pytest.approx(2 * 2.04 * 0.05 * (32 / 31) ** 0.5, rel=0.1)
    assert all(map(math.isnan, interval_at(points, [drawn(*point, images=1, spread=0.1) for point in points], 0.02)))
    assert all(map(math.isnan, interval_at(points, [drawn(*point) for point in points], -0.01)))
    assert interval_at(points, [drawn(*point) for point in points], 0.05) == pytest.approx((0.4, 0.4))


def test_accuracy_is_resampled_too():
    points = [(0.0, 0.8), (0.04, 0.4)]
    noise = np.random.default_rng(0).normal(0, 0.005, RESAMPLES)
    moved = [
        Drawn(np.full(RESAMPLES, 0.0), np.full(RESAMPLES, 0.8), 32),
        Drawn(0.04 + noise, np.full(RESAMPLES, 0.4), 32),
    ]
    low, high = interval_at(points, moved, 0.02)
    assert low < 0.6 < high
    assert high - low > 0.05
    assert 0.0 <= interval_at([(0.02, 0.01)], [drawn(0.02, 0.01, spread=0.2)], 0.02)[0]


VICTIMS = 12


def cells(name, arguments, lost, leak, *, seed=0, attack="decoder", **more):
    """A cell in which a setting loses and leaks this much: SSIM from 0.1, the floor, to 0.9."""
    correct = [place < 80 - round(100 * lost) for place in range(100)]
    wave = 0.05 * np.sin(np.arange(VICTIMS) + seed)
    ssim = (0.1 + 0.8 * leak + (wave - wave.mean() if leak not in (0, 1) else 0 * wave)).tolist()
    return make_record(
        defense=name,
        defense_args=arguments,
        attack=attack,
        ssim=ssim,
        correct=correct,
        victims=VICTIMS,
        seed=seed,
        **more,
    )


def reference(**more):
    return [cells("none", {}, 0, 0, attack="mean-image", **more), cells("none", {}, 0, 1, **more)]


def sweep(name="gaussian", curve=((0.0, 0.8), (0.02, 0.5), (0.06, 0.1)), **more):
    return [cells(name, {"std": place + 1.0}, lost, leak, **more) for place, (lost, leak) in enumerate(curve)]


def found(records):
    return list(families(build_board(records), DEFAULT.rows(records)))


def test_a_family_is_read_off_with_an_interval_and_what_it_does_not_reach_is_absent():
    records = [*reference(), *sweep(), *sweep("laplace", ((0.02, 0.6), (0.04, 0.4)))]
    gaussian, laplace = found(records)
    assert (gaussian.defense, laplace.defense) == ("gaussian", "laplace")
    assert [gaussian.readings[loss][0] for loss in LOSSES] == pytest.approx([0.65, 0.4, 0.2], abs=1e-3)
    assert all(low < mean < high for mean, low, high in gaussian.readings.values())
    assert gaussian.hypervolume == pytest.approx(0.2 * 0.2 + 0.4 * 0.5 + 0.4 * 0.9, abs=1e-3)
    assert {loss: leak for loss, (leak, *_) in laplace.readings.items()} == pytest.approx({3: 0.5, 5: 0.4}, abs=1e-3)


def test_columns_say_who_is_on_the_front_of_all_and_what_the_family_holds(tmp_path):
    records = [*reference(), *sweep(), *sweep("laplace", ((0.02, 0.6), (0.07, 0.05)))]
    board = build_board(records)
    wide = with_fronts(board, found(records))
    worst = wide[wide["attack"] == WORST_CASE].set_index(["defense", "defense_args"])
    assert worst.loc[("gaussian", "std=1.0"), "on_front"] == "yes"
    assert worst.loc[("laplace", "std=1.0"), "on_front"] == "no"
    assert worst.loc[("laplace", "std=2.0"), "on_front"] == "yes"
    assert worst.loc[("none", ""), "on_front"] == "no"
    assert worst.loc["gaussian", "leakage_at_3"].tolist() == pytest.approx([0.4] * 3, abs=1e-3)
    assert worst.loc["laplace", "leakage_at_1"].isna().all()
    assert math.isnan(worst.loc[("none", ""), "hypervolume"])
    assert (wide[wide["attack"] != WORST_CASE]["on_front"] == "").all()
    write_board(wide, tmp_path / "board.csv")
    assert read_board(tmp_path / "board.csv").equals(wide)
    assert tidy(wide[list(board.columns)]).equals(board)


def test_a_front_of_work_is_of_settings_that_lose_at_most_5_points():
    records = [*reference(), *sweep(curve=((0.0, 0.8), (0.02, 0.5), (0.04, 0.6), (0.08, 0.1)))]
    work = [0, 0, 5, 10, 20, 1]
    costly = [
        one.model_copy(
            update={
                "cost": ClientCost(multiply_adds=added, added_multiply_adds=added, parameters=0, added_parameters=0)
            }
        )
        for one, added in zip(records, work, strict=True)
    ]
    wide = with_fronts(build_board(costly), [])
    worst = wide[wide["attack"] == WORST_CASE].set_index("defense_args")
    expected = {"": "yes", "std=1.0": "yes", "std=2.0": "yes", "std=3.0": "no", "std=4.0": ""}
    assert worst["on_cost_front"].to_dict() == expected


def test_scales_are_not_mixed_and_seeds_are_taken_together_in_a_scope_of_their_own():
    records = [one for seed in (0, 1) for one in [*reference(seed=seed), *sweep(seed=seed)]]
    records += [*reference(backbone="resnet18"), *sweep(backbone="resnet18", curve=((0.01, 0.3),))]
    scopes = {family.scope: family for family in found(records)}
    assert {(scope[1], scope[3]) for scope in scopes} == {
        ("resnet10t", "0"),
        ("resnet10t", "1"),
        ("resnet10t", "all"),
        ("resnet18", "0"),
    }
    together = scopes["leaves", "resnet10t", "layer1", "all"]
    assert together.readings[3][0] == pytest.approx(0.4, abs=1e-3)
    assert together.readings[3][1] < together.readings[3][0] < together.readings[3][2]


def test_a_worst_case_that_lacks_an_attack_or_says_nothing_does_not_compete():
    lacking = [*sweep(curve=((0.01, 0.2),)), *sweep(curve=((0.01, 0.2),), attack="rmle", failed="out of memory")]
    records = [*reference(), *lacking, *sweep("laplace", ((0.02, 0.6),))]
    assert [family.defense for family in found(records)] == ["laplace"]
    assert not found([*reference()[1:], *sweep()])  # no floor, no leakage
    assert not found([])
    assert compared(build_board([])).empty


def test_only_the_strongest_attacker_counts():
    weak = sweep(curve=((0.01, 0.0), (0.02, 0.0)), threat_model="static")
    strong = sweep(curve=((0.01, 0.5), (0.02, 0.4)))
    only_static = sweep("laplace", ((0.01, 0.0),), threat_model="static")
    (family,) = found([*reference(), *weak, *strong, *only_static])
    assert family.defense == "gaussian"
    assert family.readings[1][0] == pytest.approx(0.5, abs=1e-3)
    claims = build_board([*reference(), *strong], claimed=[*reference(), *sweep("mine", ((0.01, 0.01),))])
    assert [family.defense for family in families(claims, {})] == ["gaussian"]
    assert all(map(math.isnan, next(iter(families(claims, {}))).readings[1][1:]))
