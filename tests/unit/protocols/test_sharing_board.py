"""The board of sharing as it is shown, written and plotted."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console
from sharing_records import attacked, hits, some_attacks, some_trainings, trained, transferred

from dpbench.contract.spec import PluginSpec
from dpbench.metrics.linkage import Link
from dpbench.protocols import boards
from dpbench.protocols.sharing.records import SHARED, latest
from dpbench.protocols.sharing.reporting.board import build_sharing_board
from dpbench.protocols.sharing.reporting.columns import OPTIONAL_COLUMNS
from dpbench.protocols.sharing.reporting.plots import write_benefit
from dpbench.protocols.sharing.reporting.report import report_of_sharing
from dpbench.protocols.sharing.reporting.table import print_sharing, write_csv
from dpbench.protocols.sharing.reporting.transfer import build_transfer
from dpbench.service.costs import ClientCost


def test_the_table_shows_what_varies_where_senders_apply_different_defenses():
    senders = [{"hospital": "dpm", "lab": other} for other in ("gaussian", "strong", "none")]
    records = [trained("defended-features", hits(9), senders=names) for names in senders]
    records.append(trained("own", hits(9), senders=senders[0]))
    console = Console(file=io.StringIO(), width=200)
    print_sharing(build_sharing_board(records), console)
    shown = console.file.getvalue()
    assert "+ dpm + gaussian std=1.0 " in shown
    assert "+ dpm + gaussian std=2.0 " in shown
    assert "+ dpm + none " in shown
    assert "strength" not in shown  # the same in all rows


def test_a_board_of_attacks_alone_shows_what_leaks_and_says_that_nothing_was_trained():
    alone, beside = build_sharing_board(some_attacks()), build_sharing_board([*some_trainings(), *some_attacks()])
    assert set(alone["condition"]) == {"clean-features", "defended-features", "floor"}
    attacked = alone[alone["condition"] != "floor"]
    assert (attacked["status"] == "incomplete").all()
    assert attacked["error"].str.contains("no training").all()
    assert attacked["accuracy"].isna().all()
    for _, row in alone[alone["condition"] != "clean-features"].iterrows():
        same = beside[(beside["condition"] == row["condition"]) & (beside["defense_args"] == row["defense_args"])]
        assert same["leakage"].tolist() == [row["leakage"]]
        assert same["ssim"].tolist() == [row["ssim"]]


def test_what_nobody_trained_on_stands_below_the_trainings():
    code = PluginSpec(name="resynthesis", arguments={"form": "code"})
    on_code = attacked("decoder", "query", [0.3] * 4, "strong")
    on_code = on_code.model_copy(update={"unit": on_code.unit.model_copy(update={"defense": code})})
    trainings = [trained("own", hits(10)), trained("defended-features", hits(20), defense="dpm")]
    board = build_sharing_board(
        [*trainings, *some_attacks(), on_code, attacked("decoder", "query", [0.4] * 4, "strong")]
    )
    below = board[board["accuracy"].isna() & (board["condition"] != "floor")].set_index("defense")
    assert dict(below["status"]) == {"gaussian": "incomplete", "resynthesis": "ok"}
    assert below.loc["resynthesis", "error"] == ""
    assert below.loc["resynthesis", "leakage"] > 0


def test_boards_of_nothing_are_empty():
    assert build_sharing_board([]).empty
    assert build_transfer(some_trainings()).empty


def test_a_transfer_matrix_has_a_row_for_each_pair():
    records = [transferred([a], b, [0.1 * a + 0.3] * 4) for a in range(3) for b in range(3)]
    records += [transferred([1, 2], 0, [0.6, 0.2, 0.2, 0.2]), transferred([0, 2], 1, None, error="no")]
    matrix = build_transfer(reversed(records))
    assert matrix["prepared_on"].tolist() == [*"000111222", "0+2", "1+2"]
    assert matrix["judged_on"].tolist() == [*[0, 1, 2] * 3, 1, 0]
    last = matrix.iloc[-1]
    assert last["ssim"] == pytest.approx(0.3)
    assert last["ssim_low"] <= last["ssim"] <= last["ssim_high"]
    assert (matrix.iloc[-2]["status"], matrix.iloc[-2]["error"]) == ("failed", "no")


def test_of_a_unit_measured_again_with_newer_plugins_only_the_newest_counts(tmp_path):
    def stored(source, created, ssim, error=None):
        record = attacked("decoder", "query", ssim, "dpm", error=error)
        attack = record.unit.attack.model_copy(update={"source": source})
        unit = record.unit.model_copy(update={"attack": attack})
        SHARED.write(tmp_path, record.model_copy(update={"unit": unit, "id": unit.id, "created": created}))
        return unit.id

    old = stored("old", "2026-01-01", [0.1] * 4)
    new = stored("new", "2026-01-02", [0.2] * 4)
    stored("older", "2025-12-31", None, error="no")
    assert old != new
    assert [record.id for record in latest(SHARED.all(tmp_path))] == [new]
    other = attacked("decoder", "public", [0.3] * 4, "dpm")
    SHARED.write(tmp_path, other)
    assert {record.id for record in latest([*SHARED.all(tmp_path), *SHARED.all(tmp_path)])} == {new, other.id}


def test_the_plot_shows_re_identification_where_leakage_is(tmp_path):
    board = build_sharing_board([*some_trainings(), *some_attacks()])
    shapes = []
    for name, shown in (
        ("without", board),
        ("with", board.assign(reid_top1=0.5, reid_top1_low=0.4, reid_top1_high=0.6)),
    ):
        write_benefit(shown, tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as picture:
            shapes.append(picture.size[0])
    assert shapes[1] == pytest.approx(1.5 * shapes[0], rel=0.01)


def test_the_plot_of_several_split_points_says_which_is_which(tmp_path):
    board = build_sharing_board([*some_trainings(), *some_attacks()])
    own = board["split_point"].iloc[0]
    write_benefit(board, tmp_path / "one.svg")
    write_benefit(pd.concat([board, board.assign(split_point="deeper")], ignore_index=True), tmp_path / "two.svg")
    one, two = ((tmp_path / name).read_text(encoding="utf-8") for name in ("one.svg", "two.svg"))
    assert "split at" not in one
    assert f"split at {own}" in two
    assert "split at deeper" in two


def test_what_sharing_costs_and_whom_it_names_are_columns_where_records_say_so(tmp_path):
    def cost(added, coded):
        return ClientCost(
            multiply_adds=100 + added, added_multiply_adds=added, parameters=9, added_parameters=3, coded_bits=coded
        )

    def told(knowledge, ranks, *, seed=0, coded=60, ms=2.0):
        link = None if ranks is None else Link(rank=ranks, candidates=50)
        figures = {"cost": cost(20, coded), "client_ms": ms, "release_bits": 64, "link": link}
        return attacked("decoder", knowledge, [0.5] * 4, "dpm", seed=seed, **figures)

    attacks = [told("query", [0, 0, 3, 9]), told("public", [0, 0, 0, 0]), told("own", None, ms=1.0)]
    board = build_sharing_board([*some_trainings(), *attacks, told("query", [0, 0, 0, 9], seed=1, coded=62, ms=3.0)])
    row = board[(board.condition == "defended-features") & (board.defense == "dpm")].iloc[0]
    assert row.link_top1 == 0.625  # of who queries, not of who knows less
    assert row.link_top1_low < 0.625 < row.link_top1_high
    assert row.link_chance == 0.02
    counted = [row.client_multiply_adds, row.added_multiply_adds, row.added_parameters, row.release_bits]
    assert [*counted, row.coded_bits, row.client_ms] == [120, 20, 3, 64, 62, 2.0]
    assert board[board.condition == "own"].added_multiply_adds.isna().all()
    shown = io.StringIO()
    print_sharing(board, Console(file=shown, width=200))
    assert "62%" in shown.getvalue()
    path = tmp_path / "board.csv"
    write_csv(board, path)
    again, _ = boards.read(path)
    assert list(again.columns) == list(board.columns)
    assert again.link_top1.equals(board.link_top1)
    older = build_sharing_board([*some_trainings(), attacked("decoder", "query", [0.5] * 4, "dpm")])
    assert not {*OPTIONAL_COLUMNS} & {*older.columns}


def test_what_a_sender_can_give_instead_of_features_stands_beside_it():
    records = [*some_trainings(), *some_attacks(), *(trained("sender-tail", hits(25), seed=seed) for seed in (0, 1))]
    board = build_sharing_board(records)
    row = board[board["condition"] == "sender-tail"].iloc[0]
    assert (row["status"], row["defense"], np.isnan(row["ssim"])) == ("ok", "", True)
    assert row["gain"] > 0
    said = " ".join(report_of_sharing(records, board, None, title="x").answers[0].lines)
    assert "The sender's own trained tail, without any feature, would give" in said
    console = Console(file=io.StringIO(), width=200)
    print_sharing(board, console)
    assert "the sender's tail, no features" in console.file.getvalue()


def test_two_files_of_one_name_are_two_defenses_on_a_sharing_board():
    records = some_attacks()
    for number, team in enumerate("ab"):
        spec = PluginSpec(name=f"/home/me/team_{team}/defense.py:Mine", source=f"v1-{number}")
        found = attacked("decoder", "query", [0.2 + number / 2] * 4, defense="dpm")
        unit = found.unit.model_copy(update={"defense": spec})
        records.append(found.model_copy(update={"unit": unit, "id": f"team-{team}"}))
    board = build_sharing_board(records).set_index("defense")
    assert board.loc["team_a/defense.py:Mine", "ssim"] == 0.2
    assert board.loc["team_b/defense.py:Mine", "ssim"] == 0.7
