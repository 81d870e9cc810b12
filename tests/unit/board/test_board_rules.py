"""What a board says of an attacker, an ensemble, a defense: worst cases, reliability, guarantees, claims."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from board_pages import written
from board_rows import SCALE, row, spread, worst
from record_factory import make_record

from dpbench.board.columns import FLOOR, WORST_CASE
from dpbench.board.leaderboard import build_board
from dpbench.records.record import Record
from dpbench.suite.ensembles import ENSEMBLES, ensemble_label


def test_a_worst_case_for_each_attacker_holds_all_that_is_granted_no_more() -> None:
    dpm = [
        make_record(defense="dpm", threat_model="static", ssim=0.2),
        make_record(defense="dpm", threat_model="query", auxiliary="shifted", ssim=0.3),
        make_record(defense="dpm", threat_model="query", ssim=0.4),
        make_record(defense="dpm", threat_model="query", releases=4, ssim=0.6),
        make_record(defense="dpm", threat_model="weights", attack="rmle", auxiliary="shifted", ssim=0.5),
    ]
    board = build_board([*SCALE, *dpm])
    rows = board[(board.defense == "dpm") & (board.attack == WORST_CASE)]
    found = {(r.threat_model, r.auxiliary, r.releases): r.ssim for r in rows.itertuples()}
    assert found == {
        ("static", "same", 1): 0.2,
        ("query", "shifted", 1): 0.3,
        ("query", "same", 1): 0.4,
        ("query", "same", 4): 0.6,
        ("weights", "shifted", 1): 0.5,
        ("weights", "same", 4): 0.6,  # all grants together: the headline
    }


def test_every_budget_counts_and_the_row_names_the_largest() -> None:
    board = build_board(
        [
            make_record(defense="dpm", ssim=[0.9, 0.1], victims=2, budget="small", attack_args={"epochs": 2}),
            make_record(defense="dpm", ssim=[0.2, 0.5], victims=2, budget="large", attack_args={"epochs": 9}),
        ]
    )
    assert (worst(board).ssim, worst(board).budget) == (0.7, "large")
    assert set(board.attack) == {WORST_CASE, "decoder"}  # scaled parameters do not make it another attack


def test_floors_that_look_at_the_features_count_only_where_they_ran() -> None:
    board = build_board(
        [
            *SCALE,
            make_record(attack="nearest-auxiliary", ssim=0.4),
            make_record(defense="dpm", ssim=0.2),
            make_record(defense="tight", ssim=0.05),
        ]
    )
    assert worst(board, defense="dpm").ssim == 0.2
    assert worst(board, defense="tight").ssim == 0.1  # the mean image, which anyone can output
    assert row(board, attack=FLOOR).ssim == 0.4


def test_two_draws_of_one_floor_are_one_floor() -> None:
    """More budgets on a board must not raise the zero of the scale."""
    draws = [make_record(attack="random-image", ssim=[0.0, 0.3], victims=2, budget="small")]
    draws += [make_record(attack="random-image", ssim=[0.2, 0.1], victims=2, budget="large")]
    board = build_board([make_record(ssim=0.9, victims=2), *draws])
    floor = row(board, attack=FLOOR)
    assert floor.ssim == pytest.approx(0.15)
    assert (floor.leakage, floor.budget, floor.defense, floor.cell) == (0.0, "large", "none", "")


def test_recognition_is_the_best_per_image_too() -> None:
    board = build_board(
        [
            make_record(attack="decoder", reid_rank=[0, 9, 3, 7], label_read=[True, False, False, False]),
            make_record(attack="rmle", reid_rank=[5, 9, 0, 4], label_read=[False, False, True, False]),
        ]
    )
    decoder = row(board, attack="decoder")
    assert (decoder.reid_top1, decoder.reid_top5, decoder.label_read) == (0.25, 0.5, 0.25)
    assert (worst(board).reid_top1, worst(board).reid_top5, worst(board).label_read) == (0.5, 0.75, 0.5)
    assert worst(board).reid_top1_low <= 0.5 <= worst(board).reid_top1_high
    assert (worst(board).reid_chance, worst(board).judge_accuracy) == (0.01, 0.9)


def pinned(threat_model: str, **more: object) -> list[Record]:
    versions = ENSEMBLES["ensemble-v1.1"]
    return [
        make_record(attack=name, source=f"v{versions[name]}", threat_model=threat_model, **more)  # type: ignore[arg-type]
        for name in ("decoder", "rmle", "gan")
    ]


def test_the_ensemble_has_its_name_only_when_it_is_whole() -> None:
    def label(records: list[Record], **wanted: object) -> str:
        return str(worst(build_board(records), **wanted).ensemble)

    assert label(pinned("weights")) == "ensemble-v1.1"
    assert label([*pinned("weights"), make_record(attack="ridge")]) == "ensemble-v1.1 + ridge"
    assert label(pinned("weights")[:2]) == "decoder, rmle"
    assert label([*pinned("weights")[:2], make_record(attack="gan", source="v9")]) == "decoder, gan, rmle"
    assert label([*pinned("weights")[:2], make_record(attack="gan", failed="no")]) == "decoder, rmle"
    assert label(pinned("static"), threat_model="static") == "ensemble-v1.1"
    assert label(pinned("query")[:1], threat_model="query") == "ensemble-v1.1"  # the others need weights
    # what took part with less than is granted does not make it whole
    newer = [*pinned("weights"), make_record(attack="fuse", source="v1")]
    assert label(newer) == "ensemble-v2"
    mixed = [*pinned("static")[:1], *pinned("weights")[1:]]
    assert label(mixed, threat_model="weights") == "decoder, gan, rmle"
    some = [*pinned("weights", auxiliary="shifted")[:1], *pinned("weights")[1:]]
    assert label(some, auxiliary="same") == "decoder, gan, rmle"
    assert ensemble_label({"decoder": "v3"}, threat_model="query", weaker=["rmle"]) == "ensemble-v1"


def test_leakage_is_relative_to_all_attacks_on_the_undefended_model() -> None:
    """Whatever attacked the defense: a row with a scale of its own showed more for a weaker attacker."""
    records = [*SCALE, make_record(attack="rmle", ssim=0.5), make_record(defense="dpm", attack="rmle", ssim=0.3)]
    board = build_board(records)
    assert worst(board, defense="dpm").leakage == pytest.approx((0.3 - 0.1) / (0.9 - 0.1))
    assert row(board, defense="dpm", attack="rmle").leakage == pytest.approx((0.3 - 0.1) / (0.9 - 0.1))


def test_leakage_per_metric_with_intervals() -> None:
    board = build_board(
        [
            make_record(attack="mean-image", ssim=spread(0.1), lpips=0.8, victims=60),
            make_record(ssim=spread(0.9, seed=1), lpips=0.2, victims=60),
            make_record(defense="dpm", ssim=spread(0.5, seed=2), lpips=0.5, victims=60),
        ]
    )
    dpm = row(board, defense="dpm", attack="decoder")
    assert dpm.leakage == pytest.approx((dpm.leakage_ssim + dpm.leakage_lpips) / 2, abs=1e-4)
    assert dpm.leakage_lpips == 0.5
    assert np.isnan(dpm.leakage_psnr_db)
    assert dpm.leakage_low < dpm.leakage < dpm.leakage_high
    assert dpm.leakage_high - dpm.leakage_low < 0.1
    undefended = worst(board, defense="none")
    assert (undefended.leakage_low, undefended.leakage, undefended.leakage_high) == (1, 1, 1)  # paired with itself


def test_what_a_defense_says_it_was_trained_on_is_said_and_hides_nothing() -> None:
    """It is a claim: leakage that was empty where all metrics were claimed could be claimed away."""

    def leak(**more: object) -> pd.Series:
        both = {"lpips": 0.8} if "lpips" in more else {}
        records = [make_record(attack="mean-image", ssim=0.1, **both)]  # type: ignore[arg-type]
        records += [make_record(ssim=0.9, **({"lpips": 0.2} if both else {}))]  # type: ignore[arg-type]
        return worst(build_board([*records, make_record(defense="dpm", ssim=0.5, **more)]), defense="dpm")  # type: ignore[arg-type]

    assert (leak().leakage, leak().leakage_metrics) == (0.5, "ssim")
    for trained_on, more, made_of in (
        (("ssim",), {}, "ssim (trained on)"),
        (("ssim",), {"lpips": 0.5}, "ssim lpips"),
        (("lpips", "ssim"), {"lpips": 0.5}, "ssim lpips (trained on)"),
        (("ssim", "psnr_db", "lpips", "mse", "whatever"), {"lpips": 0.5}, "ssim lpips (trained on)"),
    ):
        found = leak(trained_on=trained_on, **more)
        assert (found.leakage, found.leakage_ssim, found.leakage_metrics) == (0.5, 0.5, made_of)
        assert found.trained_on == " ".join(sorted(trained_on))


def test_a_defense_trained_on_mse_was_trained_on_psnr() -> None:
    only = {"ssim": None}
    records = [make_record(attack="mean-image", psnr_db=10, **only), make_record(psnr_db=30, **only)]  # type: ignore[arg-type]
    records.append(make_record(defense="dpm", psnr_db=20, trained_on=("mse",), **only))  # type: ignore[arg-type]
    found = worst(build_board(records), defense="dpm")
    assert (found.leakage, found.leakage_metrics) == (0.5, "psnr_db (trained on)")


def test_an_attack_that_gets_nothing_from_the_undefended_model_is_unreliable() -> None:
    records = [
        *SCALE,
        make_record(attack="rmle", ssim=0.11),
        make_record(defense="dpm", attack="rmle", ssim=0.1),
        make_record(defense="dpm", attack="rmle", ssim=0.1, threat_model="static"),
        make_record(defense="tight", ssim=0.2),
        make_record(defense="tight", attack="rmle", ssim=0.1),
    ]
    board = build_board(records)
    assert set(board[board.attack == "rmle"].status) == {"unreliable"}
    assert set(board[board.attack == "rmle"].error) == {"did not beat the floor on the undefended model"}
    assert worst(board, defense="dpm", threat_model="weights").status == "unreliable"
    assert "every attack did not beat the floor" in worst(board, defense="dpm", threat_model="weights").error
    assert worst(board, defense="tight").status == "ok"
    assert worst(board, defense="none").status == "ok"


def test_any_metric_calibrates_and_only_the_same_attack_is_asked() -> None:
    floor = make_record(attack="mean-image", ssim=0.3, psnr_db=10)
    rmle = {"attack": "rmle", "psnr_db": 10}
    board = build_board([floor, make_record(**rmle | {"psnr_db": 14}, ssim=0.1), make_record(defense="a", **rmle)])  # type: ignore[arg-type]
    assert set(board.status) == {"ok"}
    weak = make_record(**rmle, ssim=0.1)  # type: ignore[arg-type]
    for other in ({"attack_args": {"steps": 9}}, {"auxiliary": "shifted"}, {"budget": "large"}):
        board = build_board([floor, weak, make_record(defense="a", **rmle, **other)])  # type: ignore[arg-type]
        assert worst(board, defense="a").status == "ok", other
    assert worst(build_board([floor, weak, make_record(defense="a", **rmle)]), defense="a").status == "unreliable"  # type: ignore[arg-type]


def test_no_floor_no_verdict_but_no_convergence_is_one() -> None:
    assert set(build_board([make_record(ssim=0.0), make_record(defense="a")]).status) == {"ok"}
    board = build_board([*SCALE[:1], make_record(ssim=0.9, converged=False), make_record(defense="a", converged=True)])
    assert worst(board, defense="a").status == "unreliable"
    decoder = row(board, defense="a", attack="decoder")
    assert (decoder.converged, decoder.error) == ("yes", "did not converge on the undefended model")
    assert row(board, defense="none", attack="decoder").converged == "no"
    assert row(board, attack="mean-image").converged == ""


def test_guarantees_and_release_bits() -> None:
    records = [*SCALE, make_record(defense="gaussian", mse_bound=[0.1, 0.2, 0.3, 0.4], epsilon=7.5, release_bits=8192)]
    records += [make_record(defense="gaussian", releases=4, mse_bound=0.05, epsilon=15.0, release_bits=8192)]
    board = build_board(records)
    for attack in ("decoder", WORST_CASE):
        one = row(board, defense="gaussian", attack=attack, releases=1)
        assert (one.mse_bound, one.epsilon, one.delta, one.release_bits) == (0.25, 7.5, 1e-5, 8192)
        assert one.mse_bound_low < 0.25 < one.mse_bound_high
        assert row(board, defense="gaussian", attack=attack, releases=4).mse_bound == 0.05
    assert board[board.defense == "none"].mse_bound.isna().all()
    assert board[board.defense == "none"].release_bits.isna().all()


def test_information_bits_have_a_column_where_some_defense_bounds_them(tmp_path: Path) -> None:
    noisy = [make_record(defense="waist", mse_bound=0.1, information_bits=12.625, seed=seed) for seed in (0, 1)]
    noisy[1] = make_record(defense="waist", mse_bound=0.1, information_bits=14.0, seed=1)
    board = build_board([*SCALE, *noisy])
    bits = board[board.defense == "waist"].set_index(["attack", "seed"]).information_bits
    assert dict(bits.loc[WORST_CASE]) == {"0": 12.62, "1": 14.0, "all": 14.0}  # the weaker guarantee
    assert board[board.defense == "none"].information_bits.isna().all()
    assert "information_bits" in written(board, tmp_path / "board.md")
    assert "information_bits" not in build_board([*SCALE, make_record(defense="g", mse_bound=0.1)]).columns


def test_no_guarantee_is_said_where_people_read(tmp_path: Path) -> None:
    board = build_board([make_record(), make_record(defense="g", mse_bound=0.25, epsilon=2.0)])
    for ending, shown in (("md", True), ("html", True), ("csv", False)):
        assert ("n/a" in written(board, tmp_path / f"board.{ending}")) == shown
    assert "2.000 (delta 1e-05)" in (tmp_path / "board.md").read_text()


def test_claims_stand_apart_and_change_nothing() -> None:
    measured = [*SCALE, make_record(defense="dpm", ssim=0.5)]
    claims = [
        make_record(attack="mean-image", ssim=0.0),
        make_record(attack="decoder", ssim=0.3),
        make_record(defense="better", ssim=0.15),
        make_record(defense="dpm", attack="rmle", ssim=0.99),
    ]
    board = build_board(measured, claimed=claims)
    assert set(board.origin) == {"measured", "claimed"}
    alone = build_board(measured)
    pd.testing.assert_frame_equal(board[board.origin == "measured"], alone)
    assert list(board.origin) == sorted(board.origin, reverse=True)
    assert worst(board, defense="better").leakage == 0.5  # on the claimant's own scale
    assert set(build_board([], claimed=claims).origin) == {"claimed"}


def test_other_images_are_told_apart_by_where_they_come_from() -> None:
    shifted = {"defense": "dpm", "auxiliary": "shifted"}
    board = build_board([make_record(**shifted, shifted="spectra"), make_record(**shifted, shifted="/home/me/faces")])  # type: ignore[arg-type]
    assert set(board.attack) == {WORST_CASE, "decoder shifted=spectra", "decoder shifted=faces"}
    assert set(build_board([make_record(**shifted)]).attack) == {WORST_CASE, "decoder"}  # type: ignore[arg-type]
