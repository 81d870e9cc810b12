"""What sharing gains: paired image by image and seed by seed, as one computes it by hand."""

import numpy as np
import pytest
from sharing_records import hits, rows, some_attacks, some_trainings, trained

from dpbench.protocols.sharing.reporting.board import build_sharing_board


def test_accuracy_gain_and_share_kept_are_what_one_computes_by_hand():
    found = rows(some_trainings())
    assert found["own"]["accuracy"] == pytest.approx((10 + 8) / 80)
    assert found["clean-images"]["gain"] == pytest.approx((20 + 24) / 80)
    defended = found["defended-features"]
    assert defended["accuracy"] == pytest.approx(40 / 80)
    assert defended["gain"] == pytest.approx((10 + 12) / 80)
    assert defended["share_kept"] == pytest.approx(22 / 44)
    assert (found["own"]["gain"], found["own"]["share_kept"], found["clean-images"]["share_kept"]) == (0, 0, 1)
    for row in found.values():
        assert row["status"] == "ok"
        assert row["seeds"] == "0 1"
        for figure in ("accuracy", "gain", "share_kept"):
            assert row[f"{figure}_low"] <= row[figure] <= row[f"{figure}_high"]


def test_gains_are_paired_image_by_image():
    """The same 5 images more: the gain is certain, although either accuracy is not."""
    found = rows([trained("own", hits(15)), trained("clean-images", hits(20))])
    width = {
        figure: found["clean-images"][f"{figure}_high"] - found["clean-images"][f"{figure}_low"]
        for figure in ("accuracy", "gain")
    }
    assert width["gain"] < 1.2 * width["accuracy"]  # of two accuracies on other images: 1.4
    assert rows([trained("own", hits(15)), trained("own-longer", hits(15))])["own-longer"]["gain_high"] == 0


def test_gains_are_paired_seed_by_seed():
    """What a seed is worth by itself is no doubt about the gain."""
    records = []
    for seed, own in enumerate((5, 30)):
        records += [trained("own", hits(own), seed=seed), trained("clean-images", hits(own + 9), seed=seed)]
    row = rows(records)["clean-images"]
    assert row["gain"] == pytest.approx(9 / 40)
    assert row["gain_low"] > 0
    assert row["gain_high"] < 18 / 40
    assert (row["share_kept_low"], row["share_kept_high"]) == (1, 1)  # of itself, in every resample


def test_what_features_teach_beyond_soft_labels_is_paired_too():
    records = some_trainings()
    assert "over_soft_labels" not in build_sharing_board(records)
    records += [trained("soft-labels", hits(15), seed=0), trained("soft-labels", hits(13), seed=1)]
    found = rows(records)
    assert found["soft-labels"]["over_soft_labels"] == 0
    row = found["defended-features"]
    assert row["over_soft_labels"] == pytest.approx((5 + 7) / 80)
    assert 0 < row["over_soft_labels_low"] < row["over_soft_labels"] < row["over_soft_labels_high"]
    one = rows([*some_trainings(), trained("soft-labels", hits(15), seed=0)])["defended-features"]
    assert one["over_soft_labels"] == pytest.approx(5 / 40)  # of the seed that both have
    failed = trained("soft-labels", None, seed=0, error="out of memory")
    assert "over_soft_labels" not in build_sharing_board([*some_trainings(), failed])


def test_the_order_of_records_changes_nothing():
    records = [*some_trainings(), *some_attacks()]
    board = build_sharing_board(records).to_csv(index=False)
    for seed in range(3):
        shuffled = [records[index] for index in np.random.default_rng(seed).permutation(len(records))]
        assert build_sharing_board(shuffled).to_csv(index=False) == board


def test_there_is_no_share_of_a_gain_that_there_is_not():
    found = rows([trained("own", hits(20)), trained("clean-images", hits(21)), trained("own-longer", hits(25))])
    assert found["own-longer"]["gain"] == pytest.approx(5 / 40)
    assert all(np.isnan(row["share_kept"]) for row in found.values())
    assert all(np.isnan(row["share_kept"]) for row in rows([trained("own", hits(20))]).values())


def test_failed_trainings_are_rows_with_their_reason():
    records = some_trainings()
    records[2] = trained("defended-features", None, seed=0, defense="dpm", error="ValueError: no")
    records += [trained("clean-features", None, seed=seed, error="out of memory") for seed in (0, 1)]
    found = rows(records)
    assert found["defended-features"]["status"] == "incomplete"
    assert found["defended-features"]["error"] == "seed 0: ValueError: no"
    assert found["defended-features"]["seeds"] == "1"
    assert found["defended-features"]["gain"] == pytest.approx(12 / 40)  # of the seed that both finished
    assert found["clean-features"]["status"] == "failed"
    assert "seed 0: out of memory; seed 1: out of memory" in found["clean-features"]["error"]
    assert np.isnan(found["clean-features"]["accuracy"])


def test_figures_of_two_recipes_do_not_mix():
    other = [trained("own", hits(30), steps=7), trained("clean-images", hits(40), steps=7)]
    board = build_sharing_board([trained("own", hits(10)), trained("clean-images", hits(20)), *other])
    assert sorted(board["accuracy"]) == [0.25, 0.5, 0.75, 1.0]
    assert board[board["condition"] == "clean-images"]["gain"].tolist() == [0.25, 0.25]
    assert set(board["seeds"]) == {"0"}
