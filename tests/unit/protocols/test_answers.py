"""The answer box says in plain words what a board holds, and nothing more."""

import pytest
from record_factory import make_record

from dpbench.board.leaderboard import build_board
from dpbench.protocols.inference.answers import answer, answers, panels_of, verdict

NOWHERE, FIRST = 40, 0
"""Ranks of the true image: as a blind guess finds it, and the nearest of all."""

ALL_RIGHT, MOST, HALF = [True] * 100, [True] * 97 + [False] * 3, [True] * 50 + [False] * 50


def attacked(ssim, rank=NOWHERE, *, defense="none", correct=ALL_RIGHT, **more):
    arguments = {"std": 1.0} if defense == "gaussian" else {}
    return make_record(
        defense=defense, defense_args=arguments, ssim=ssim, reid_rank=rank, correct=correct, victims=8, **more
    )


FLOOR = attacked(0.2, attack="mean-image")
BARE = attacked(0.9, FIRST)


def said(*records, claimed=()):
    panels = panels_of(build_board(records, claimed=claimed))
    text, tone = verdict(panels)
    lines = [line for panel in panels for line in answer(panel, alone=len(panels) == 1).lines]
    return text, tone, lines


def test_images_that_come_back_behind_all_defenses():
    text, tone, lines = said(
        FLOOR,
        BARE,
        attacked(0.85, FIRST, defense="gaussian", correct=MOST),
        attacked(0.6, FIRST, defense="dpm", correct=HALF),
    )
    assert (text, tone) == ("Yes, behind all 2 defense settings tested.", "bad")
    assert (
        lines[0]
        == "Split at layer1 without a defense: images come back (SSIM 0.90), 100% of the victims re-identified."
    )
    assert lines[1] == (
        "No defense was found to hold for under 5 points of accuracy. The best of them, gaussian std=1.0 (\u22123.0 "
        "points of accuracy): images come back (SSIM 0.85), 100% of the victims re-identified."
    )
    assert lines[2] == (
        "What leaks least, whatever it costs, is dpm (\u221250.0 points of accuracy): images come back blurred or in "
        "part (SSIM 0.60), 100% of the victims re-identified."
    )
    assert lines[3] == "The strongest attacker here holds the client's network."


def test_a_defense_that_holds_is_no_proof_and_is_named_with_its_cost():
    text, tone, lines = said(FLOOR, BARE, attacked(0.2, defense="dpm", correct=MOST))
    assert text == "Not by these attacks behind the one defense tested. That is not proof of privacy."
    assert tone == "good"
    assert lines[1].startswith("Best defense that loses under 5 points of accuracy: dpm (\u22123.0 points of accuracy)")
    assert "images do not come back by these attacks (SSIM 0.20)" in lines[1]
    assert "0% of the victims re-identified, not clearly more than by a blind guess" in lines[1]


def test_a_defense_that_holds_for_more_accuracy_than_is_affordable():
    lines = said(FLOOR, BARE, attacked(0.2, defense="dpm", correct=HALF))[2]
    assert lines[1] == "Best defense that loses under 5 points of accuracy: none."
    assert lines[2].startswith("What leaks least, whatever it costs, is dpm (\u221250.0 points of accuracy)")


def test_victims_that_are_named_though_no_picture_comes_back():
    """Re-identification 100% at leakage 0: the eye sees nothing, and the photograph is found all the same."""
    text, tone, lines = said(FLOOR, BARE, attacked(0.2, FIRST, defense="dpm"))
    assert text == "Not as pictures, but victims are re-identified behind the one defense tested."
    assert tone == "bad"
    assert "images do not come back by these attacks (SSIM 0.20), yet 100% of the victims re-identified" in lines[1]
    assert lines[1].startswith("No defense was found to hold")


def test_some_are_seen_some_are_named_and_some_hold():
    text, tone, _ = said(
        FLOOR,
        BARE,
        attacked(0.7, FIRST, defense="gaussian"),
        attacked(0.2, FIRST, defense="dpm"),
        attacked(0.2, defense="dropout"),
    )
    assert text == (
        "Yes, behind 1 of the 3 defense settings tested; behind 1 more the victims are re-identified all the same."
    )
    assert tone == "mixed"


def test_no_defense_was_tested():
    text, tone, lines = said(FLOOR, BARE)
    assert (text, tone) == ("Yes, without a defense. No defense was tested.", "bad")
    assert lines[0].endswith("100% of the victims re-identified.")
    assert not any("accuracy" in line for line in lines)


def test_undefended_networks_at_several_places():
    deep = [attacked(0.2, split_point="layer4", attack=attack) for attack in ("mean-image", "decoder")]
    assert said(FLOOR, BARE, *deep)[:2] == (
        "Yes, without a defense, at 1 of the 2 split points tested. No defense was tested.",
        "mixed",
    )


def test_every_attack_failed():
    text, tone, lines = said(
        attacked(0.9, failed="out of memory"), attacked(0.9, failed="out of memory", defense="dpm")
    )
    assert (text, tone) == ("That cannot be said: the attacks failed.", "open")
    assert lines[:2] == [
        "Split at layer1 without a defense: not measured.",
        "Of 1 of 1 defense settings nothing can be said: their attacks failed.",
    ]


def test_nothing_but_failures_and_no_defense():
    assert said(attacked(0.9, failed="out of memory"))[0] == "Nothing was measured: no attack finished."


def test_what_failed_is_counted_beside_what_held():
    text, tone, _ = said(
        FLOOR, BARE, attacked(0.2, defense="dpm"), attacked(0.2, defense="dropout", failed="out of memory")
    )
    assert text == (
        "Not by these attacks behind 1 of the 2 defense settings tested. Of 1 of the 2 defense settings tested nothing "
        "can be said. That is not proof of privacy."
    )
    assert tone == "open"


def test_a_worst_case_without_an_attack_that_failed_does_not_hold():
    text, _, lines = said(
        FLOOR, BARE, attacked(0.2, defense="dpm"), attacked(0.2, defense="dpm", attack="rmle", failed="out of memory")
    )
    assert text.startswith("That cannot be said")
    assert any("with it this could only be worse" in line for line in lines)


def test_attacks_that_work_nowhere_say_nothing_of_a_defense():
    text, tone, lines = said(FLOOR, attacked(0.2), attacked(0.2, defense="dpm"))
    assert (text, tone) == ("That cannot be said: these attacks recover too little even without a defense.", "open")
    assert any("low figures say nothing about a defense" in line for line in lines)


@pytest.mark.parametrize("guesses", [[], [FLOOR]])
def test_without_an_attack_on_the_undefended_network_nothing_holds(guesses):
    text, tone, lines = said(*guesses, attacked(0.2, defense="dpm"))
    assert tone == "open"
    assert "the undefended network was not measured" in text
    assert lines[0] == "Split at layer1 without a defense: not measured."
    assert not any(line.startswith("Best defense") for line in lines)
    unknown = "What a defense costs is not known: the accuracy of the undefended network was not measured."
    assert (unknown in lines) == (not guesses)  # blind guesses measure it too


def test_attackers_who_do_not_know_of_the_defense_prove_the_least():
    text, _, lines = said(FLOOR, BARE, attacked(0.2, defense="dpm", threat_model="static"))
    assert text == (
        "Not by these attacks, by attackers who do not know of the defense, behind the one defense tested. That is not "
        "proof of privacy."
    )
    assert lines[-1].endswith("Nobody who knows the defense attacked.")


def test_a_trusted_server_is_said():
    lines = said(*(record("trusted") for record in _OF_A_SERVER))[2]
    assert lines[-1] == "The strongest attacker here holds the client's network, hears the wire alone."


_OF_A_SERVER = [
    lambda server: attacked(0.2, attack="mean-image", server=server),
    lambda server: attacked(0.9, FIRST, server=server),
    lambda server: attacked(0.2, defense="dpm", server=server),
]


def test_each_place_of_several_backbones_has_its_own_answer():
    records = [
        attacked(0.2 if attack == "mean-image" else 0.9, rank, attack=attack, backbone=backbone, split_point=split)
        for backbone, split in (("resnet10t", "layer1"), ("resnet10t", "layer2"), ("convnext_atto", "stages.0"))
        for attack, rank in (("mean-image", NOWHERE), ("decoder", FIRST))
    ]
    panels = panels_of(build_board(records))
    places = [answer(panel, alone=False).place for panel in panels]
    assert sorted(places) == [
        "leaves, convnext_atto split at stages.0",
        "leaves, resnet10t split at layer1",
        "leaves, resnet10t split at layer2",
    ]
    assert verdict(panels)[0] == "Yes, without a defense, at all 3 split points tested. No defense was tested."
    told = [line for one in answers(panels) for line in one.lines if "attacker" in line]
    assert told == ["The strongest attacker at every place holds the client's network."]
    assert [one.place for one in answers(panels)] == places


def test_a_metric_that_the_defense_was_trained_against_is_said():
    lines = said(FLOOR, BARE, attacked(0.2, defense="dpm", trained_on=("ssim",)))[2]
    assert "(SSIM 0.20, which the defense was trained against)" in lines[1]


@pytest.mark.parametrize("lpips", [None, 0.4])
def test_lpips_is_not_needed(lpips):
    records = [
        attacked(ssim, rank, defense=defense, attack=attack, lpips=lpips, psnr_db=20 * ssim)
        for ssim, rank, defense, attack in (
            (0.2, NOWHERE, "none", "mean-image"),
            (0.9, FIRST, "none", "decoder"),
            (0.7, FIRST, "dpm", "decoder"),
        )
    ]
    assert said(*records)[0] == "Yes, behind the one defense tested."


def test_claims_are_told_as_claims():
    lines = said(claimed=(FLOOR, BARE))[2]
    assert lines[-1] == "These are figures that others claim: they were not measured again."


def test_whoever_may_ask_nothing_is_described():
    lines = said(FLOOR, BARE, attacked(0.2, defense="dpm", attack="fora", threat_model="observe"))[2]
    assert "sees releases and may ask nothing" in lines[-1]
