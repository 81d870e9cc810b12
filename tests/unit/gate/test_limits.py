"""`dpbench gate`: one verdict, and nothing that was not measured passes."""

import json
import math

import numpy as np
import pytest
import sharing_records
from kept_run import make_run, make_sharing_run
from record_factory import make_grid, make_record

from dpbench.board.columns import CELL_LAYOUT
from dpbench.board.files import write_board
from dpbench.board.leaderboard import build_board
from dpbench.errors import DpbenchError
from dpbench.gate.findings import FIGURES, Limit, limits
from dpbench.gate.limits import judge
from dpbench.protocols.sharing.reporting.board import build_sharing_board
from dpbench.protocols.sharing.reporting.columns import SHARING_BOARDS


def of_grid(**given):
    return judge(build_board(make_grid(split_points=("layer1",))), CELL_LAYOUT, limits(given))


def settings(verdict):
    return {one.setting for one in verdict.judged}


def one_setting(**changes):
    """A board of one defended setting: 20 victims, of which one is re-identified, and 100 test images."""
    shared = {"victims": 20, "ssim": [0.3] * 10 + [0.5] * 10, "correct": [True] * 80 + [False] * 20}
    shared |= {"reid_rank": [0] + [5] * 19}
    records = [
        make_record(attack="mean-image", **shared | {"ssim": 0.1, "correct": [True] * 100}),
        make_record(**shared | {"ssim": 0.9, "correct": [True] * 100}),
        make_record(defense="gaussian", defense_args={"std": 1.0}, **shared | changes),
    ]
    return build_board(records)


def test_the_verdict_names_the_furthest_figure_first():
    verdict = of_grid(max_reid=0.1, max_ssim=0.4, min_accuracy=0.7)
    assert verdict.answer == "NO"
    worst = max(verdict.judged, key=lambda one: one.excess)
    assert verdict.judged[0] == worst
    assert verdict.line == f"NO: {worst.setting}: {worst.said}; and {len(verdict.beyond) - 1} more"
    assert "layer1, gaussian noise_std=0.5: SSIM 0.7" in "\n".join(
        f"{one.setting}: {one.said}" for one in verdict.beyond
    )


def test_what_stays_within_is_a_yes():
    verdict = of_grid(max_ssim=0.99, min_accuracy=0.1)
    assert (verdict.answer, verdict.settings) == ("YES", 7)
    assert verdict.line == "YES: 7 settings stay within 2 limits, whole 95% intervals"
    assert not any("none" in name for name in settings(verdict))
    assert "the undefended model is the reference" in verdict.notes[0]


@pytest.mark.parametrize(
    ("option", "column"),
    [(name, figure.column) for name, figure in FIGURES.items() if name not in ("max_identity", "max_link", "min_gain")],
)
def test_each_limit_is_on_its_figure(option, column):
    board = one_setting()
    row = board[(board["attack"] == "worst-case") & (board["defense"] == "gaussian")].iloc[0]
    least = option.startswith("min")
    inside, outside = (0.0, 1.0) if least else (1.0, 0.0)
    assert judge(board, CELL_LAYOUT, limits({option: inside})).answer == "YES"
    refused = judge(board, CELL_LAYOUT, limits({option: outside}))
    assert refused.answer == "NO"
    assert refused.judged[0].mean == row[column]
    assert refused.judged[0].figure == column


def test_the_worse_end_of_the_interval_must_stay_within():
    """One of 20 is 5%; by chance it may be a fifth."""
    board = one_setting()
    row = board[(board["attack"] == "worst-case") & (board["defense"] == "gaussian")].iloc[0]
    assert row["reid_top1"] == 0.05 < 0.1 < row["reid_top1_high"]
    by_interval = judge(board, CELL_LAYOUT, limits({"max_reid": 0.1}))
    assert by_interval.line == (
        "NO: layer1, gaussian std=1.0: re-identified 5%, by its interval perhaps 24%, limit 10%"
    )
    assert by_interval.judged[0].at_worst == row["reid_top1_high"]
    by_mean = judge(board, CELL_LAYOUT, limits({"max_reid": 0.1}), by="mean")
    assert by_mean.line == "YES: 1 setting stays within 1 limit, means alone"
    assert row["accuracy_low"] < 0.75 < row["accuracy"] == 0.8
    assert judge(board, CELL_LAYOUT, limits({"min_accuracy": 0.75})).answer == "NO"
    assert judge(board, CELL_LAYOUT, limits({"min_accuracy": 0.75}), by="mean").answer == "YES"
    with pytest.raises(DpbenchError, match="unknown way to judge 'median'"):
        judge(board, CELL_LAYOUT, limits({"max_reid": 0.1}), by="median")


def test_a_figure_at_its_limit_is_within_it_and_one_beyond_is_not_rounded_onto_it():
    board = one_setting(ssim=0.4)
    assert judge(board, CELL_LAYOUT, limits({"max_ssim": 0.4})).answer == "YES"
    refused = judge(board, CELL_LAYOUT, limits({"max_ssim": 0.3999}))
    assert refused.line.endswith("SSIM 0.4000, limit 0.3999")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"reid_rank": None}, "re-identified not measured, limit 100%"),
        ({"failed": "it broke"}, "re-identified not measured (failed), limit 100%"),
        ({"attack": "mean-image"}, "re-identified not measured (no attack but guesses), limit 100%"),
    ],
)
def test_what_was_not_measured_never_passes(changes, why):
    verdict = judge(one_setting(**changes), CELL_LAYOUT, limits({"max_reid": 1.0}))
    assert verdict.line == f"NO: layer1, gaussian std=1.0: {why}"
    assert verdict.judged[0].mean is None


def test_attacks_that_failed_or_are_not_calibrated_say_nothing_of_what_leaks():
    shared = {"defense": "gaussian", "defense_args": {"std": 1.0}}
    half = [make_record(**shared, ssim=0.2), make_record(**shared, attack="rmle", failed="it broke")]
    verdict = judge(build_board(half), CELL_LAYOUT, limits({"max_ssim": 0.9, "min_accuracy": 0.0}))
    assert [one.said for one in verdict.beyond] == ["SSIM not measured (an attack failed), limit 0.9"]
    weak = [make_record(ssim=0.1), make_record(attack="mean-image", ssim=0.2), make_record(**shared, ssim=0.1)]
    verdict = judge(build_board(weak), CELL_LAYOUT, limits({"max_ssim": 0.9}))
    assert [one.said for one in verdict.beyond] == ["SSIM not measured (attacks not calibrated), limit 0.9"]


def test_every_attacker_counts_and_is_named():
    board = build_board(make_grid(split_points=("layer1",)))
    verdict = judge(board, CELL_LAYOUT, limits({"max_ssim": 0.2}), defense="gaussian*")
    assert verdict.beyond[0].attackers == ("weights", "static")
    verdict = judge(board, CELL_LAYOUT, limits({"max_ssim": 0.4}), defense="dpm*", by="mean")
    assert {one.attackers for one in verdict.beyond} == {("weights",)}


def test_defenses_are_picked_by_name_or_parameters():
    board = build_board(make_grid(split_points=("layer1", "layer2")))

    def named(pattern):
        return settings(judge(board, CELL_LAYOUT, limits({"max_ssim": 1.0}), defense=pattern))

    assert named("dpm weight=1.0") == {"layer1, dpm weight=1.0", "layer2, dpm weight=1.0"}
    assert named("dpm rounds=3 weight=1.0") == named("dpm weight=1.0")
    assert named("none") == {"layer1, none", "layer2, none"}
    with pytest.raises(DpbenchError, match=r"nothing to judge: no setting matches 'dpn\*'; its defenses: dpm "):
        named("dpn*")


def test_an_undefended_model_alone_is_judged():
    verdict = judge(build_board([make_record(ssim=0.9)]), CELL_LAYOUT, limits({"max_ssim": 0.5}))
    assert verdict.line == "NO: layer1, none: SSIM 0.90, limit 0.5"
    assert verdict.notes[0] == "no defense was measured: the undefended model is judged"


def test_several_seeds_are_judged_together():
    records = [make_record(defense="gaussian", seed=seed, ssim=ssim, victims=12) for seed, ssim in ((0, 0.2), (1, 0.4))]
    verdict = judge(build_board(records), CELL_LAYOUT, limits({"max_ssim": 0.35}), by="mean")
    assert [one.mean for one in verdict.judged] == [pytest.approx(0.3)]


def test_attackers_that_were_not_tried_are_named():
    static = make_record(defense="gaussian", threat_model="static", ssim=0.1)
    verdict = judge(build_board([static]), CELL_LAYOUT, limits({"max_ssim": 0.9}))
    assert verdict.answer == "YES"
    assert "no attacker that is granted 'weights' was tried; the strongest had 'static'" in verdict.notes
    both = build_board([static, make_record(defense="dpm", threat_model="weights", ssim=0.1)])
    notes = judge(both, CELL_LAYOUT, limits({"max_ssim": 0.9})).notes
    assert "layer1, gaussian was attacked with 'static' at most, others with 'weights'" in notes


def test_an_attacker_that_was_tried_with_one_seed_alone_counts_beside_all_seeds():
    shared = {"defense": "gaussian", "victims": 12}
    records = [make_record(seed=seed, ssim=0.2, threat_model="static", **shared) for seed in (0, 1)]
    records.append(make_record(seed=0, ssim=0.8, threat_model="weights", **shared))
    verdict = judge(build_board(records), CELL_LAYOUT, limits({"max_ssim": 0.5}))
    assert any("weights" in one.attackers for one in verdict.beyond)


def test_claimed_rows_are_not_judged():
    mine, theirs = make_record(defense="gaussian", ssim=0.2), make_record(defense="dpm", ssim=0.9)
    board = build_board([mine], claimed=[theirs])
    assert settings(judge(board, CELL_LAYOUT, limits({"max_ssim": 1.0}))) == {"layer1, gaussian"}
    with pytest.raises(DpbenchError, match="nothing to judge"):
        judge(build_board([], claimed=[theirs]), CELL_LAYOUT, limits({"max_ssim": 1.0}))


def test_limits_are_asked_for_and_must_be_possible():
    with pytest.raises(
        DpbenchError, match=r"no limit given: a gate without one would always pass; give one of --max-s"
    ):
        limits({"max_ssim": None})
    for value in (-0.1, 10, math.nan, math.inf):
        with pytest.raises(DpbenchError, match=r"--max-reid .*: expected a number from 0 to 1"):
            limits({"max_reid": value})


def test_a_missing_figure_is_beyond_any_limit():
    assert all(Limit(figure, 1.0 - figure.least).excess(math.nan) == math.inf for figure in FIGURES.values())


def sharing(*records):
    return build_sharing_board(records)


def judged_sharing(board, **given):
    return judge(board, SHARING_BOARDS.layout, limits(given))


def test_a_sharing_board_is_judged_by_what_its_attacks_recover():
    hits = [True, True, False, True] * 25
    board = sharing(
        sharing_records.trained("own", hits),
        sharing_records.trained("defended-features", hits, defense="gaussian"),
        sharing_records.trained("defended-features", hits, defense="strong"),
        sharing_records.attacked("decoder", "query", [0.8, 0.8, 0.9, 0.8], "gaussian"),
        sharing_records.attacked("mean-image", "query", [0.1] * 4, "strong"),
    )
    assert judged_sharing(board, min_accuracy=0.5).line == "YES: 2 settings stay within 1 limit, whole 95% intervals"
    assert judged_sharing(board, min_gain=0.02).line == ("NO: layer1, gaussian std=1.0: gain 0%, limit 2%; and 1 more")
    found = {one.setting: one.said for one in judged_sharing(board, max_ssim=0.5).beyond}
    assert found == {
        "layer1, gaussian std=1.0": "SSIM 0.82, limit 0.5",
        "layer1, gaussian std=2.0": "SSIM not measured (no attack but guesses), limit 0.5",
    }
    with pytest.raises(DpbenchError, match=r"nothing to judge: .*it has no worst case"):
        judged_sharing(sharing(sharing_records.trained("own", hits)), max_ssim=0.5)


def test_runs_and_boards_from_the_command_line(dpbench, tmp_path):
    make_run(tmp_path / "run")
    for path in ("run", "run/board.csv"):
        refused = dpbench("gate", tmp_path / path, "--max-ssim", "0.1", "--max-reid", "1")
        assert (refused.status, refused.err) == (1, "")
        assert refused.out.splitlines()[0].startswith("NO: layer1, none: SSIM 0.")
        assert dpbench("gate", tmp_path / path, "--max-ssim", "1", "--min-accuracy", "0").status == 0
    as_json = dpbench("gate", tmp_path / "run", "--max-ssim", "0.1", "--json")
    assert as_json.status == 1
    told = json.loads(as_json.out)
    assert (told["verdict"], told["by"]) == ("NO", "interval")
    assert told["line"] == refused.out.splitlines()[0]
    assert told["judged"][0].keys() >= {"setting", "attackers", "figure", "mean", "at_worst", "limit", "holds", "said"}
    make_sharing_run(tmp_path / "shared")
    assert dpbench("gate", tmp_path / "shared", "--max-ssim", "0.1").status == 1


def test_unusable_input_is_neither_yes_nor_no(dpbench, tmp_path):
    make_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    for arguments in (
        ["run"],
        ["run", "--max-ssim", "4"],
        ["run", "--max-ssim", "0.4", "--defense", "dpm"],
        ["run", "--max-ssim", "0.4", "--by", "median"],
        ["empty", "--max-ssim", "0.4"],
        ["gone.csv", "--max-ssim", "0.4"],
        ["other.csv", "--max-ssim", "0.4"],
    ):
        outcome = dpbench("gate", tmp_path / arguments[0], *arguments[1:])
        assert (outcome.status, outcome.out, len(outcome.err.splitlines())) == (2, "", 1), arguments


def test_names_of_strangers_are_cleaned(dpbench, tmp_path):
    board = build_board([make_record(defense="::error::\x1b[31mred", ssim=0.9)])
    write_board(board, tmp_path / "board.csv")
    outcome = dpbench("gate", tmp_path / "board.csv", "--max-ssim", "0.1")
    assert outcome.status == 1
    assert "::" not in outcome.out
    assert "\x1b" not in outcome.out


def test_a_row_without_an_interval_is_judged_by_its_mean():
    board = one_setting().assign(ssim_low=np.nan, ssim_high=np.nan)
    verdict = judge(board, CELL_LAYOUT, limits({"max_ssim": 0.45}))
    assert verdict.judged[0].at_worst == verdict.judged[0].mean == pytest.approx(0.4)
