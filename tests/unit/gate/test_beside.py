"""One's own rows in a published board."""

import pytest
from record_factory import make_record

from dpbench.board.columns import CELL_LAYOUT
from dpbench.board.files import read_board, write_board
from dpbench.board.leaderboard import build_board
from dpbench.errors import DpbenchError
from dpbench.gate.beside import ELSEWHERE, OWN, set_beside
from dpbench.protocols.sharing.reporting.columns import SHARING_BOARDS
from dpbench.reporting.plots.tradeoff_plot import write_tradeoff


def reference(**changes):
    """The undefended model under two attacks, and the floor."""
    given = {"correct": [True] * 9 + [False], **changes}
    return [
        make_record(attack="decoder", threat_model="query", ssim=0.8, reid_rank=0, **given),
        make_record(attack="rmle", ssim=0.9, reid_rank=0, **given),
        make_record(attack="mean-image", threat_model="query", ssim=0.1, reid_rank=9, **given),
    ]


def defended(name, ssim=0.5, **changes):
    return [make_record(defense=name, attack="rmle", ssim=ssim, correct=[True] * 8 + [False] * 2, **changes)]


@pytest.fixture
def published(tmp_path):
    write_board(build_board(reference() + defended("gaussian")), tmp_path / "board.csv")
    return read_board(tmp_path / "board.csv")


def test_rows_on_the_scale_of_the_board_are_set_among_its_own_and_marked(published, tmp_path):
    own = build_board(reference(dataset="mine/leaves") + defended("mine", 0.3, dataset="mine/leaves"))
    found = set_beside(own, published, CELL_LAYOUT)
    added = found.board[found.board["origin"] == OWN]
    assert list(added["defense"].unique()) == ["mine"]
    assert (found.board["origin"] == "measured").sum() == len(published)
    assert added["leakage"].notna().all()
    assert list(found.board["dataset"].unique()) == ["leaves"]
    assert "on its scale" in found.notes[-1]
    measured = found.board[found.board["origin"] == "measured"].reset_index(drop=True)
    assert list(measured["cell"]) == list(published["cell"])
    write_board(found.board, tmp_path / "merged.csv")
    assert list(read_board(tmp_path / "merged.csv")["origin"]) == list(found.board["origin"])


@pytest.mark.parametrize(
    ("records", "why"),
    [
        (defended("mine"), "no undefended model"),
        (reference(fingerprint="other") + defended("mine", fingerprint="other"), "no cell of its undefended model"),
        (reference()[1:] + defended("mine"), "lacks attacks on the undefended model that the board has (decoder"),
    ],
)
def test_rows_on_another_scale_lose_their_leakage_and_the_reason_is_said(published, records, why):
    found = set_beside(build_board(records), published, CELL_LAYOUT)
    added = found.board[found.board["origin"] == ELSEWHERE]
    assert "mine" in set(added["defense"])
    assert added["leakage"].isna().all()
    assert added["ssim"].notna().all()
    assert why in found.notes[0]


def test_another_fit_of_the_network_is_said(published):
    own = build_board(reference(correct=[True] * 4 + [False] * 6) + defended("mine"))
    assert "another fit of the network: undefended accuracy" in set_beside(own, published, CELL_LAYOUT).notes[0]


def test_own_rows_are_drawn(published, tmp_path):
    own = build_board(reference() + defended("mine", 0.3))
    write_tradeoff(set_beside(own, published, CELL_LAYOUT).board, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").stat().st_size


def test_what_has_no_scale_is_refused(published):
    with pytest.raises(DpbenchError, match="such boards have no scale"):
        set_beside(published, published, SHARING_BOARDS.layout)
    with pytest.raises(DpbenchError, match="holds no row"):
        set_beside(published[:0], published, CELL_LAYOUT)


def test_the_verb_sets_a_run_beside_a_board(published, tmp_path, dpbench):
    from dpbench.records.store import CELLS

    for record in reference() + defended("mine"):
        CELLS.write(tmp_path / "run", record)
    outcome = dpbench(
        "leaderboard", tmp_path / "run", "--beside", tmp_path / "board.csv", "--output", tmp_path / "both.csv"
    )
    assert outcome.status == 0, outcome.err
    assert "rows set into the board, on its scale" in outcome.out
    assert (read_board(tmp_path / "both.csv")["origin"] == OWN).any()
