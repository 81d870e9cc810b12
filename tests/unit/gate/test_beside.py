"""One's own rows in a published board."""

import pytest
import sharing_records
from record_factory import make_record, victim_hashes

from dpbench.board.columns import CELL_LAYOUT
from dpbench.board.files import read_board, write_board
from dpbench.board.leaderboard import build_board
from dpbench.errors import DpbenchError
from dpbench.gate.beside import ELSEWHERE, OWN, set_beside
from dpbench.protocols.boards import read
from dpbench.protocols.inference.yardstick import CELL_YARDSTICK
from dpbench.protocols.sharing.records import SHARED
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
    found = set_beside(own, published, CELL_LAYOUT, CELL_YARDSTICK)
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
        (defended("mine"), "no undefended reference;"),
        (reference(fingerprint="other") + defended("mine", fingerprint="other"), "no undefended reference is the"),
        (reference()[1:] + defended("mine"), "lacks references that the board has (decoder"),
    ],
)
def test_rows_on_another_scale_lose_their_leakage_and_the_reason_is_said(published, records, why):
    found = set_beside(build_board(records), published, CELL_LAYOUT, CELL_YARDSTICK)
    added = found.board[found.board["origin"] == ELSEWHERE]
    assert "mine" in set(added["defense"])
    assert added["leakage"].isna().all()
    assert added["ssim"].notna().all()
    assert why in found.notes[0]


def test_another_fit_of_the_network_is_said(published):
    own = build_board(reference(correct=[True] * 4 + [False] * 6) + defended("mine"))
    (first, *_) = set_beside(own, published, CELL_LAYOUT, CELL_YARDSTICK).notes
    assert "another fit of the network: undefended accuracy" in first


def test_own_rows_are_drawn(published, tmp_path):
    own = build_board(reference() + defended("mine", 0.3))
    write_tradeoff(set_beside(own, published, CELL_LAYOUT, CELL_YARDSTICK).board, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").stat().st_size


def test_a_run_without_rows_is_refused(published):
    with pytest.raises(DpbenchError, match="holds no row"):
        set_beside(published[:0], published, CELL_LAYOUT, CELL_YARDSTICK)


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


def shared(defense, *, victims=sharing_records.HASHES, ssim=0.4):
    """A sharing run: what the scale is made of, and one defense."""
    hits = [True] * 12 + [False] * 8
    return [
        sharing_records.trained("own", [True] * 8 + [False] * 12),
        sharing_records.trained("clean-images", [True] * 16 + [False] * 4),
        sharing_records.trained("clean-features", hits),
        sharing_records.trained("defended-features", hits, defense=defense),
        sharing_records.attacked("mean-image", "public", [0.1] * len(victims), "none", victims=victims),
        sharing_records.attacked("decoder", "public", [0.9] * len(victims), "none", victims=victims),
        sharing_records.attacked("decoder", "query", [ssim] * len(victims), defense, victims=victims),
    ]


def set_into(tmp_path, dpbench, own):
    for folder, records in (("published", shared("gaussian")), ("mine", own)):
        for record in records:
            SHARED.write(tmp_path / folder, record)
    archive = tmp_path / "records" / "board.jsonl.xz"
    assert dpbench("leaderboard", tmp_path / "published", "--output", tmp_path / "board.csv").status == 0
    assert dpbench("leaderboard", tmp_path / "published", "--output", archive).status == 0
    output = tmp_path / "both.csv"
    outcome = dpbench("leaderboard", tmp_path / "mine", "--beside", tmp_path / "board.csv", "--output", output)
    assert outcome.status == 0, outcome.err
    return outcome, read(output)[0]


def test_rows_of_a_sharing_run_stand_on_the_scale_of_a_board_that_has_the_same_references(tmp_path, dpbench):
    outcome, both = set_into(tmp_path, dpbench, shared("dpm"))
    own = both[both["origin"] == OWN]
    assert list(own["defense"]) == ["dpm"]
    assert own[["gain", "leakage"]].notna().all(axis=None)
    assert list(both["condition"])[-1] == "floor"
    assert (both["origin"] == "measured").sum() == 5
    assert "1 rows set into the board, on its scale" in outcome.out


def test_a_sharing_run_with_other_victims_loses_what_stands_on_the_scale(tmp_path, dpbench):
    outcome, both = set_into(tmp_path, dpbench, shared("dpm", victims=victim_hashes(3)))
    own = both[(both["origin"] == ELSEWHERE) & (both["defense"] == "dpm")]
    assert own[["gain", "share_kept", "leakage"]].isna().all(axis=None)
    assert own[["accuracy", "ssim"]].notna().all(axis=None)
    assert "lacks references that the board has (clean-features, floor;" in outcome.out


def test_boards_of_two_protocols_are_not_set_beside_each_other(published, tmp_path, dpbench):
    SHARED.write(tmp_path / "mine", shared("dpm")[0])
    outcome = dpbench(
        "leaderboard", tmp_path / "mine", "--beside", tmp_path / "board.csv", "--output", tmp_path / "x.csv"
    )
    assert outcome.status == 2
    assert "expected a board of the protocol 'sharing'" in outcome.err
