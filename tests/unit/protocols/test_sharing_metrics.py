"""Metrics of one's own in sharing suites: what a plan, a board, a table and the gate make of them."""

import io

import pytest
from rich.console import Console
from sharing_records import HASHES, attacked, trained

from dpbench.contract.metric import MetricFacts
from dpbench.contract.spec import PluginSpec
from dpbench.errors import DpbenchError
from dpbench.gate.compare import compare
from dpbench.gate.findings import Tolerance
from dpbench.protocols.boards import read
from dpbench.protocols.sharing.protocol import Sharing
from dpbench.protocols.sharing.records import latest
from dpbench.protocols.sharing.reporting.board import build_sharing_board
from dpbench.protocols.sharing.reporting.columns import COLUMNS, SHARING_BOARDS
from dpbench.protocols.sharing.reporting.table import print_sharing

FACTS = MetricFacts(name="absolute", closer="lower", decimals=3, tolerance=0.01, low=0.0, high=1.0)
ASKED = PluginSpec(name="own.py:Absolute", source="v1-0123456789ab")


def measured(record, figures, facts=FACTS):
    unit = record.unit.model_copy(update={"metrics": (ASKED,)})
    fidelity = {**record.fidelity, facts.name: figures}
    return record.model_copy(update={"id": unit.id, "unit": unit, "fidelity": fidelity, "metrics": [facts]})


def records(decoder=(0.2, 0.3, 0.2, 0.3), rmle=(0.3, 0.1, 0.4, 0.4)):
    return [
        trained("own", [True, False]),
        trained("clean-features", [True, True]),
        measured(attacked("mean-image", "public", [0.1] * 4, "none"), [0.5] * 4),
        measured(attacked("decoder", "public", [0.9] * 4, "none"), list(decoder)),
        measured(attacked("rmle", "public", [0.8] * 4, "none"), list(rmle)),
    ]


def row(board, condition):
    return board[board["condition"] == condition].iloc[0]


def test_a_unit_without_them_is_the_unit_that_it_was():
    unit = attacked("decoder", "query", [0.9] * 4, "dpm").unit
    assert "metrics" not in unit.model_dump()
    beside = unit.model_copy(update={"metrics": (ASKED,)})
    moved = unit.model_copy(update={"metrics": (ASKED.model_copy(update={"name": "elsewhere/own.py:Absolute"}),)})
    assert beside.id != unit.id
    assert beside.id == moved.id
    assert beside.cell().drawn_by == unit.cell().drawn_by


def test_their_worst_case_has_columns_which_the_board_says_how_to_read(tmp_path):
    board = build_sharing_board(records())
    assert [column for column in board.columns if column not in COLUMNS] == [
        *("absolute", "absolute_low", "absolute_high"),
        "metrics",
    ]
    assert row(board, "clean-features")["absolute"] == 0.2  # per image the closest, which is the lowest
    assert row(board, "floor")["absolute"] == 0.5
    assert set(board["metrics"]) == {"", FACTS.text}
    path = tmp_path / "board.csv"
    path.write_text(Sharing().as_csv(board))
    again = read(path)[0]
    assert again["absolute"].equals(board["absolute"])
    shown = io.StringIO()
    print_sharing(again.fillna({"metrics": ""}), Console(file=shown, width=200))
    assert "absolute" in shown.getvalue()


def test_one_that_some_attack_lacks_is_not_on_the_board():
    *others, last = records()
    bare = attacked("rmle", "public", [0.8] * 4, "none")
    board = build_sharing_board([*others, bare])
    assert row(board, "floor")["absolute"] == 0.5
    assert row(board, "clean-features").isna()["absolute"]
    assert last.unit.version_free_id != bare.unit.version_free_id


def test_boards_without_them_stay_what_they_are():
    board = build_sharing_board([trained("own", [True]), attacked("mean-image", "public", [0.1] * 4, "none")])
    assert list(board.columns) == list(COLUMNS)


def test_what_was_measured_beside_other_metrics_counts_once():
    before = attacked("decoder", "public", [0.9] * 4, "none").model_copy(update={"created": "2026-01-01"})
    after = measured(before, [0.2] * 4).model_copy(update={"created": "2026-01-02"})
    assert latest([after, before]) == [after]


def test_the_gate_goes_by_the_metric_s_own_word():
    def findings(now, was):
        boards = [build_sharing_board(records([figure] * 4, [figure] * 4)) for figure in (now, was)]
        return [one.kind for one in compare(*boards, tolerance=Tolerance(), layout=SHARING_BOARDS.layout).findings]

    assert findings(0.1, 0.4) == ["leaks more"]  # lower is closer
    assert findings(0.4, 0.1) == ["leaks less"]


def test_a_name_that_another_column_has_is_refused(tmp_path):
    path = tmp_path / "board.csv"
    path.write_text(Sharing().as_csv(build_sharing_board(records())).replace("absolute", "gain_loss"))
    assert "gain_loss" in read(path)[0]
    path.write_text(Sharing().as_csv(build_sharing_board(records())).replace("absolute", "distortion"))
    with pytest.raises(DpbenchError, match="boards have such a column"):
        read(path)[0]


def test_impossible_figures_are_found():
    wrong = measured(attacked("decoder", "public", [0.9] * 4, "none"), [2.0] * len(HASHES))
    assert wrong.impossible() == ["absolute is 2.0, expected in [0, 1]"]
