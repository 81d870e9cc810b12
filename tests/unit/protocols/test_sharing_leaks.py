"""What shared features leak: the worst case over what is known, on one scale."""

from itertools import pairwise

import numpy as np
import pytest
from sharing_records import HASHES, attacked, hits, leaks, rows, some_attacks, some_trainings, trained

from dpbench.protocols.sharing.reporting.board import FLOOR


def test_the_worst_case_is_per_image_and_cumulative_over_what_is_known():
    row = leaks(some_attacks())["defended-features"]
    by_hand = {
        "ssim_public": [0.2, 0.3, 0.1, 0.2],
        "ssim_own": [0.2, 0.5, 0.1, 0.2],
        "ssim_query": [0.2, 0.5, 0.6, 0.2],
        "ssim_weights": [0.2, 0.5, 0.6, 0.7],
        "ssim": [0.2, 0.5, 0.6, 0.7],
    }
    for column, values in by_hand.items():
        assert row[column] == pytest.approx(np.mean(values), abs=1e-4), column
    figures = [row[f"ssim_{knowledge}"] for knowledge in ("public", "own", "query", "weights")]
    assert all(weaker <= stronger for weaker, stronger in pairwise(figures))
    assert row["ssim_low"] <= row["ssim"] <= row["ssim_high"]
    assert row["victims"] == len(HASHES)


def test_every_knowledge_is_shown_on_the_same_images():
    attacks = [*some_attacks(), attacked("gan", "weights", [0.1, 0.1], defense="dpm", victims=HASHES[2:])]
    row = leaks(attacks)["defended-features"]
    figures = [row[f"ssim_{knowledge}"] for knowledge in ("public", "own", "query", "weights")]
    assert figures == pytest.approx([np.mean(v) for v in ([0.1, 0.2], [0.1, 0.2], [0.6, 0.2], [0.6, 0.7])], abs=1e-4)
    assert row["ssim"] == row["ssim_weights"]


def test_knowledge_that_no_attack_had_has_no_figure():
    attacks = [a for a in some_attacks() if a.unit.knowledge != "own"]
    assert np.isnan(leaks(attacks)["defended-features"]["ssim_own"])
    assert np.isnan(leaks(attacks)["clean-features"]["ssim_query"])


def test_a_floor_that_looks_at_nothing_is_the_least_that_anyone_recovers():
    attacks = [attacked("mean-image", "public", [0.3] * 4, defense="none")]
    attacks += [attacked("decoder", "public", [0.1, 0.1, 0.1, 0.5], defense="dpm")]
    assert leaks(attacks)["defended-features"]["ssim_public"] == pytest.approx(np.mean([0.3, 0.3, 0.3, 0.5]))
    looked_up = [attacked("nearest-auxiliary", "public", [0.3] * 4, defense="none"), attacks[1]]
    assert leaks(looked_up)["defended-features"]["ssim_public"] == pytest.approx(0.2)


def test_leakage_is_one_undefended_and_zero_at_the_floor():
    found = leaks(some_attacks())
    assert found["clean-features"]["leakage"] == 1
    assert found[FLOOR]["leakage"] == 0
    floor = np.mean([0.15, 0.1, 0.1, 0.15])
    assert found[FLOOR]["ssim"] == pytest.approx(floor)
    # ssim alone was recorded, and dpm here was not trained on it
    assert found["defended-features"]["leakage"] == pytest.approx((0.5 - floor) / (0.8 - floor), abs=1e-4)
    assert "leakage" in found["own"]
    assert np.isnan(found["own"]["leakage"])


def test_a_defense_that_says_it_trained_on_the_only_metric_still_shows_what_it_leaks():
    attacks = [
        a.model_copy(update={"trained_on": ["ssim"]}) if a.unit.defense.name == "dpm" else a for a in some_attacks()
    ]
    row, unsaid = leaks(attacks)["defended-features"], leaks(some_attacks())["defended-features"]
    assert row["leakage"] == unsaid["leakage"] > 0
    assert (row["leakage_metrics"], unsaid["leakage_metrics"]) == ("ssim (trained on)", "ssim")
    assert row["trained_on"] == "ssim"


def test_the_floor_belongs_to_no_defense():
    records = [trained("defended-features", hits(20), defense="dpm"), trained("own", hits(20)), *some_attacks()]
    assert rows(records)[FLOOR]["defense"] == ""
    assert rows(records)[FLOOR]["defense_args"] == ""


def test_a_failed_attack_makes_its_row_incomplete():
    attacks = some_attacks()
    broken = attacked("rmle", "own", None, defense="dpm", error="RuntimeError: no")
    row = leaks([*attacks, broken])["defended-features"]
    assert (row["status"], row["error"]) == ("incomplete", "rmle: RuntimeError: no")
    assert row["ssim"] == pytest.approx(0.5)
    assert leaks([*attacks, broken])["clean-features"]["status"] == "ok"


def test_a_row_whose_attacks_all_failed_says_so():
    attacks = [a for a in some_attacks() if a.unit.defense.name == "none"]
    row = leaks([*attacks, attacked("decoder", "query", None, defense="dpm", error="no")])["defended-features"]
    assert (row["status"], row["error"]) == ("incomplete", "decoder: no")
    assert np.isnan(row["ssim"])


def test_a_failed_floor_is_told():
    broken = attacked("class-mean", "public", None, defense="none", error="no")
    found = leaks([*some_attacks(), broken])
    assert (found[FLOOR]["status"], found[FLOOR]["error"]) == ("incomplete", "class-mean: no")


def test_failures_of_training_and_attack_are_both_told():
    records = some_trainings()
    records[2] = trained("defended-features", None, seed=0, defense="dpm", error="full")
    found = rows([*records, *some_attacks(), attacked("rmle", "own", None, defense="dpm", error="no")])
    assert found["defended-features"]["error"] == "seed 0: full; rmle: no"
    nothing = [trained("own", hits(10)), trained("defended-features", None, defense="dpm", error="full")]
    broken = attacked("rmle", "own", None, defense="dpm", error="no")
    assert rows([*nothing, *some_attacks(), broken])["defended-features"]["status"] == "failed"


def test_two_senders_of_whom_one_defends_nothing():
    """Each column is of both senders: what is known of the one's defense changes nothing of the other."""
    senders = {"hospital": "dpm", "lab": "none"}
    records = [trained("own", hits(10), senders=senders), trained("defended-features", hits(9), senders=senders)]
    records += [attacked("decoder", k, [s] * 4, "dpm", senders=senders) for k, s in (("public", 0.2), ("own", 0.3))]
    records += [attacked("decoder", "public", [0.8] * 4, "none", sender="lab", senders=senders)]
    row = rows(records)["defended-features"]
    assert row["ssim_public"] == pytest.approx(0.5)
    assert row["ssim_own"] == pytest.approx(0.55)
    assert row["ssim"] == pytest.approx(0.55)


def test_a_plugin_that_says_it_is_a_floor_sets_no_zero_on_a_sharing_board():
    claims = attacked("mine.py:Guess", "public", [0.75] * 4, defense="none").model_copy(update={"floor": True})
    before, after = leaks(some_attacks()), leaks([*some_attacks(), claims])
    assert after[FLOOR]["ssim"] == before[FLOOR]["ssim"]
    assert after["defended-features"]["leakage"] <= before["defended-features"]["leakage"]
