"""One scale for every row: who is granted less never shows more, and figures are compared with their like alone."""

from __future__ import annotations

import io
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from board_rows import row, worst
from hypothesis import given, settings
from hypothesis import strategies as st
from record_factory import make_grid, make_record, victim_hashes
from rich.console import Console

from dpbench.api import load_records
from dpbench.board.cells import SERVER_ROLES, Tier
from dpbench.board.columns import CELL_LAYOUT, FLOOR, KEY, WORST_CASE
from dpbench.board.comparisons import difference
from dpbench.board.files import read_board, write_board
from dpbench.board.leaderboard import build_board, build_rows
from dpbench.contract.threat import AUXILIARY_DATA, THREAT_MODELS
from dpbench.records.record import Record
from dpbench.records.store import CELLS
from dpbench.reporting.plots.tradeoff_plot import write_tradeoff
from dpbench.reporting.table import print_table

METRICS = {"ssim": (0.0, 1.0), "psnr_db": (8.0, 40.0), "lpips": (0.0, 0.9)}


@st.composite
def records_of(draw: st.DrawFn, defense: str, attacks: tuple[str, ...], *, whole: bool) -> list[Record]:
    """Some attacks with random grants, figures, victims, and metrics that are not there."""
    records = []
    for place in range(draw(st.integers(1, 4))):
        victims = draw(st.sampled_from([8, 4, 2]))
        random = np.random.default_rng(draw(st.integers(0, 2**16)))
        figures = {
            metric: random.uniform(*limits, victims).tolist()
            for metric, limits in METRICS.items()
            if whole or draw(st.integers(0, 4))
        }
        tier: dict[str, Any] = {
            "threat_model": draw(st.sampled_from(THREAT_MODELS)),
            "auxiliary": draw(st.sampled_from(AUXILIARY_DATA)),
            "releases": draw(st.sampled_from([1, 4])),
            "server": draw(st.sampled_from(SERVER_ROLES)),
            "seed": draw(st.integers(0, 1)),
        }
        failed = "no" if draw(st.integers(0, 7)) == 0 else None
        arguments = {"place": place}
        shared = {"defense": defense, "victims": victims, "failed": failed, "attack_args": arguments, "ssim": None}
        records.append(make_record(attack=draw(st.sampled_from(attacks)), **shared | figures | tier))
    return records


def tier_of(row: Any) -> Tier:
    server = "trusted" if getattr(row, "server", "") == "trusted" else "attacker"
    return Tier(row.threat_model, row.auxiliary, row.releases, server)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_who_is_granted_less_never_shows_more(data: st.DataObject) -> None:
    floors = [make_record(attack="mean-image", seed=s, victims=8, ssim=0.2, psnr_db=12.0, lpips=0.6) for s in (0, 1)]
    reference = [make_record(seed=s, victims=8, ssim=0.7, psnr_db=25.0, lpips=0.2) for s in (0, 1)]
    attacks = ("decoder", "rmle", "nearest-auxiliary", "team/mine.py:Fused")
    undefended = data.draw(records_of("none", attacks, whole=True))
    defended = data.draw(records_of("dpm", attacks, whole=False))
    board = build_board([*floors, *reference, *undefended, *defended])
    rows = board[(board["attack"] == WORST_CASE) & board["leakage"].notna()]
    for one, other in product(rows.itertuples(), rows.itertuples()):
        same = (one.defense, one.seed) == (other.defense, other.seed)
        if same and tier_of(other).includes(tier_of(one)):
            assert one.leakage <= other.leakage + 1e-9
            assert (one.leakage_metrics, one.leakage_images) == (other.leakage_metrics, other.leakage_images)
    for seed in ("0", "1"):  # the strongest undefended worst case is 1, whatever it is made of
        own = rows[(rows["defense"] == "none") & (rows["seed"] == seed)]
        assert own.empty or own["leakage"].max() == 1  # empty where a lucky floor leaves no metric that tells


def test_a_weaker_attacker_at_the_same_ssim_shows_as_much() -> None:
    """Each row with a 1 of its own, restricted to its attacks: shifted images once showed more than like ones."""
    gaussian = {"defense": "gaussian", "ssim": 0.5}
    board = build_board(
        [
            make_record(attack="mean-image", ssim=0.1),
            make_record(ssim=0.9),
            make_record(ssim=0.6, auxiliary="shifted"),
            make_record(ssim=0.95, attack="rmle"),
            make_record(**gaussian, threat_model="query"),  # type: ignore[arg-type]
            make_record(**gaussian, threat_model="query", auxiliary="shifted"),  # type: ignore[arg-type]
            make_record(**gaussian, attack="rmle"),  # type: ignore[arg-type]
        ]
    )
    leaks = board[(board["defense"] == "gaussian")]["leakage"]
    assert set(leaks) == {round((0.5 - 0.1) / (0.95 - 0.1), 4)}
    assert worst(board, defense="none", auxiliary="shifted").leakage == round(0.5 / 0.85, 4)


def test_rows_of_a_setting_are_on_the_same_victims() -> None:
    """The decoder's further victims are easy: on all of them it would show more than the ensemble it belongs to."""
    board = build_board(
        [
            make_record(attack="mean-image", ssim=0.1, victims=4),
            make_record(ssim=0.9, victims=4),
            make_record(attack="rmle", ssim=0.9, victims=2),
            make_record(defense="dpm", ssim=[0.3, 0.3, 0.9, 0.9], threat_model="query"),
            make_record(defense="dpm", ssim=[0.4, 0.4], victims=2, attack="rmle"),
        ]
    )
    dpm = board[board["defense"] == "dpm"].set_index(["attack", "threat_model"])
    assert (dpm.loc[(WORST_CASE, "query"), "images"], dpm.loc[(WORST_CASE, "query"), "ssim"]) == (4, 0.6)
    assert set(dpm["leakage_images"]) == {2}
    assert dpm.loc[(WORST_CASE, "query"), "leakage"] == dpm.loc[("decoder", "query"), "leakage"] == 0.25
    assert dpm.loc[(WORST_CASE, "weights"), "leakage"] == 0.375


def test_a_seed_in_which_the_strong_attack_failed_does_not_count_for_the_weak_one_alone() -> None:
    records = []
    for seed, ssim in ((0, 0.2), (1, 0.8), (2, 0.3)):
        records += [make_record(attack="mean-image", ssim=0.1, seed=seed), make_record(ssim=0.9, seed=seed)]
        records += [make_record(defense="dpm", ssim=ssim, threat_model="query", seed=seed)]
        records += [make_record(defense="dpm", ssim=ssim, attack="rmle", victims=2 + 2 * (seed != 1), seed=seed)]
    records = [record for record in records if not (record.cell.seed == 1 and record.cell.attack.name == "rmle")]
    board = build_board(records)
    together = board[(board["seed"] == "all") & (board["defense"] == "dpm") & (board["attack"] == WORST_CASE)]
    assert set(together["leakage"]) == {round((0.1 + 0.2) / 2 / 0.8, 4)}
    assert together["ssim"].nunique() == 2  # the other figures are what was measured


def test_leakage_says_what_it_is_made_of_and_is_compared_with_its_like_alone() -> None:
    full = {"psnr_db": 20.0, "lpips": 0.4}
    records = [make_record(attack="mean-image", ssim=0.1, psnr_db=10.0, lpips=0.8)]
    records += [make_record(ssim=0.9, psnr_db=30.0, lpips=0.1), make_record(defense="a", ssim=0.5, **full)]  # type: ignore[arg-type]
    records += [make_record(defense="b", ssim=0.5, psnr_db=20.0)]
    board = build_board(records)
    assert worst(board, defense="a").leakage_metrics == "ssim psnr_db lpips"
    assert worst(board, defense="b").leakage_metrics == "ssim psnr_db"
    assert math.isnan(worst(board, defense="b").leakage_lpips)
    rows = {row.name.defense: row for row in build_rows(records) if row.name.attack == WORST_CASE}
    assert difference(rows["a"], rows["b"], "leakage") is None
    assert difference(rows["a"], rows["none"], "leakage") is not None
    assert worst(board, defense="a").tied == "b"  # by SSIM, which both have


def test_a_metric_that_cannot_tell_takes_no_part() -> None:
    """The best of several draws beats the best floor by LPIPS, although the attack itself is worse than that."""
    rng = np.random.default_rng(0)
    noisy = {name: rng.uniform(0.1, 0.3, 40).tolist() for name in ("floor", "other", "decoder", "rmle")}
    undefended = [
        make_record(attack="mean-image", ssim=0.1, lpips=noisy["floor"], victims=40),
        make_record(attack="nearest-auxiliary", ssim=0.1, lpips=noisy["other"], victims=40),
        make_record(ssim=0.6, lpips=noisy["decoder"], victims=40),
        make_record(ssim=0.6, lpips=noisy["rmle"], victims=40, attack="rmle"),
    ]
    board = build_board([*undefended, make_record(defense="dpm", ssim=0.2, lpips=0.05, victims=40)])
    margin = row(board, attack=FLOOR).lpips - worst(board, defense="none").lpips
    assert margin > 0.02  # by the best per image alone it would seem to tell
    assert set(board[board["leakage"].notna()]["leakage_metrics"]) == {"ssim"}
    assert worst(board, defense="dpm").leakage == 0.2
    better = [record for record in undefended if record.cell.attack.name != "rmle"]
    better += [make_record(attack="rmle", ssim=0.6, lpips=0.1, victims=40)]
    assert worst(build_board(better), defense="none").leakage_metrics == "ssim lpips"


def test_only_built_in_floors_set_the_zero() -> None:
    """A plug-in that says `floor = True` would lift it."""
    mine = make_record(attack="mine.py:Guess", ssim=0.7, floor=True)
    records = [make_record(attack="mean-image", ssim=0.1), make_record(ssim=0.9), make_record(defense="dpm", ssim=0.5)]
    board = build_board([*records, mine])
    assert row(board, attack=FLOOR).ssim == 0.1
    assert worst(board, defense="dpm").leakage == 0.5
    assert row(board, attack="mine.py:Guess").leakage == 0.75
    beside = build_board([*records, make_record(defense="dpm", attack="mine.py:Guess", ssim=0.7, floor=True)])
    assert worst(beside, defense="dpm").ssim == 0.7  # in a worst case it is an attack like any other
    assert worst(beside, defense="dpm").ensemble == "decoder, mine.py:Guess"
    only = build_board([make_record(defense="dpm", attack="mine.py:Guess", ssim=0.7, floor=True)])
    assert worst(only, defense="dpm").ensemble == "mine.py:Guess"


def test_who_holds_the_servers_half_is_part_of_a_rows_name(tmp_path: Path) -> None:
    records = [
        make_record(attack="mean-image", ssim=0.1),
        make_record(ssim=0.9),
        make_record(defense="lattice", ssim=0.8),
        make_record(defense="lattice", ssim=0.3, server="trusted"),
    ]
    board = build_board(records)
    lattice = board[(board["defense"] == "lattice") & (board["attack"] == WORST_CASE)].set_index("server")
    assert lattice["ssim"].to_dict() == {"": 0.8, "trusted": 0.3}
    assert lattice["leakage"].to_dict() == {"": 0.875, "trusted": 0.25}  # on one scale
    assert lattice["tied"].to_dict() == {"": "", "trusted": ""}
    assert not board[["server", *KEY]].duplicated().any()
    path = tmp_path / "board.csv"
    write_board(board, path)
    assert list(read_board(path)["server"]) == list(board["server"])
    without = build_board(records[:3])
    assert "server" not in without
    keys = {CELL_LAYOUT.name_of(values) for values in board.to_dict("records")}
    assert {CELL_LAYOUT.name_of(values) for values in without.to_dict("records")} < keys
    assert len(keys) == len(board)
    write_board(board, tmp_path / "board.md")
    assert "| trusted" in (tmp_path / "board.md").read_text()
    for record in records:
        CELLS.write(tmp_path, record)
    assert set(load_records(tmp_path)["server"]) == {"", "trusted"}


def test_table_and_plots_keep_server_roles_apart(tmp_path: Path) -> None:
    def printed(records: list[Record]) -> str:
        console = Console(file=io.StringIO(), width=200)
        print_table(build_board(records), console)
        return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]

    trusted: dict[str, Any] = {"server": "trusted"}
    alone = [make_record(attack="mean-image", ssim=0.1, **trusted), make_record(ssim=0.9, **trusted)]
    alone += [make_record(defense="lattice", ssim=0.3, **trusted)]
    assert "attackers without the server's half" in printed(alone)
    both = [*alone, make_record(defense="lattice", ssim=0.8)]
    assert "attackers without the server's half" not in printed(both)
    assert "lattice 75.0% +0.0 0.80 0.80 0.30 0.88" in printed(both)  # decoder, worst, worst weights trusted, leakage
    for records in (alone, both):
        write_tradeoff(build_board(records), tmp_path / "plot.png")
        assert (tmp_path / "plot.png").stat().st_size > 5000


def test_an_attacker_without_the_servers_half_lends_its_attacks_to_one_who_has_it() -> None:
    records = [make_record(ssim=0.3), make_record(ssim=0.8, attack="rmle", server="trusted")]
    board = build_board(records)
    found = {server: worst(board, server=server) for server in ("", "trusted")}
    assert (found[""].ssim, found["trusted"].ssim) == (0.8, 0.8)
    assert (found[""].ensemble, found["trusted"].ensemble) == ("decoder, rmle", "rmle")


def test_an_attack_is_calibrated_by_its_own_version_and_images() -> None:
    floor, weak = make_record(attack="mean-image", ssim=0.3), {"attack": "rmle", "ssim": 0.3}
    records = [floor, make_record(ssim=0.9), make_record(**weak)]  # type: ignore[arg-type]
    old = make_record(defense="dpm", **weak)  # type: ignore[arg-type]
    assert worst(build_board([*records, old]), defense="dpm").status == "unreliable"
    for other in ({"source": "v2"}, {"auxiliary": "shifted"}):
        board = build_board([*records, make_record(defense="dpm", **weak, **other)])  # type: ignore[arg-type]
        assert worst(board, defense="dpm").status == "ok"


def test_bounds_and_figures_that_are_no_numbers_are_not_there() -> None:
    record = make_record(mse_bound=0.2, epsilon=3.0, reid_rank=0)
    assert record.guarantees is not None
    assert record.recognition is not None
    for bound in ([None, 0.1, 0.1, 0.1], [math.nan] * 4, [math.inf] * 4, []):
        broken = record.guarantees.model_copy(update={"mse_bound": bound, "epsilon": math.inf, "delta": math.nan})
        nowhere = record.recognition.model_copy(update={"gallery": 0, "judge_accuracy": math.nan})
        board = build_board([record.model_copy(update={"guarantees": broken, "recognition": nowhere})])
        assert board[["mse_bound", "epsilon", "delta", "reid_chance"]].isna().all().all()


def test_a_board_of_two_hundred_rows_takes_seconds() -> None:
    records = make_grid(60, split_points=tuple(f"layer{number}" for number in range(4)))
    assert len(build_board(records)) > 100


def test_victims_that_nobody_shares_leave_the_others_alone() -> None:
    board = build_board(
        [
            make_record(attack="mean-image", ssim=0.1),
            make_record(ssim=0.9),
            make_record(defense="dpm", ssim=0.5),
            make_record(defense="odd", ssim=0.5, victims=victim_hashes(4, first=50)),
        ]
    )
    assert worst(board, defense="dpm").leakage == 0.5
    assert math.isnan(worst(board, defense="odd").leakage)
