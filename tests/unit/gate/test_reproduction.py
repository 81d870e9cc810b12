"""`dpbench reproduce`: a row of a board measured again, or refused where it could not be the same row."""

import json
import shutil

import pytest
import sharing_records
from tiny_suite import SUITE

import dpbench as package
from dpbench.board.files import read_board
from dpbench.gate import reproduction
from dpbench.protocols.sharing.protocol import Sharing
from dpbench.records.record_files import digest_of
from dpbench.records.store import CELLS


@pytest.fixture(scope="module")
def board(tmp_path_factory, cache):
    """A published board with its records beside it."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "tiny.toml").write_text(SUITE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPBENCH_CACHE", str(cache))
        package.run(str(folder / "tiny.toml"), output=folder / "run", device="cpu")
    CELLS.write_archive([folder / "run"], folder / "records" / "tiny.jsonl.xz", list)
    records = list(CELLS.all(folder / "run"))
    from dpbench.board.files import write_board

    write_board(package.build_board(records), folder / "tiny.csv")
    return folder / "tiny.csv"


def number_of(board, attack):
    return str(list(read_board(board)["attack"]).index(attack) + 1)


@pytest.mark.parametrize("attack", ["mean-image", "worst-case"])
def test_a_row_comes_out_again(board, attack, tmp_path, dpbench):
    arguments = ("reproduce", board, "--row", number_of(board, attack), "--device", "cpu", "--output", tmp_path / "x")
    outcome = dpbench(*arguments)
    assert outcome.status == 0, outcome
    assert "1 of 1 cells to run" in outcome.out
    assert f"| {attack} (" in outcome.out
    assert "figures within their published intervals" in outcome.out
    assert "0 of 1 cells to run" in dpbench(*arguments).out


def test_a_row_goes_by_the_id_of_its_cell_too(board, tmp_path, dpbench):
    (record,) = CELLS.all(board.parent / "run")
    outcome = dpbench(
        "reproduce", board.parent / "run", "--row", record.id, "--output", tmp_path / "x", "--device", "cpu"
    )
    assert outcome.status == 0, outcome


def test_a_figure_outside_its_interval_is_said(board, tmp_path, dpbench):
    run = shutil.copytree(board.parent / "run", tmp_path / "run")
    (path,) = CELLS.files(run)
    content = json.loads(path.read_text())
    content["fidelity"]["ssim"] = [0.9, 0.91, 0.92, 0.93]
    path.write_text(json.dumps({**content, "digest": digest_of(content)}))
    outcome = dpbench("reproduce", run, "--row", path.stem, "--output", tmp_path / "x", "--device", "cpu")
    assert outcome.status == 1
    assert "not reproduced" in outcome.out
    (line,) = [line for line in outcome.out.splitlines() if line.strip().startswith("ssim")]
    assert line.endswith("outside")


def test_a_cell_that_fails_is_said(board, tmp_path, dpbench, monkeypatch):
    from dpbench_attacks.mean_image import MeanImage

    def fail(self, seen, *, generator):
        raise RuntimeError("nothing left")

    monkeypatch.setattr(MeanImage, "reconstruct", fail)
    outcome = dpbench("reproduce", board, "--row", "1", "--output", tmp_path / "x", "--device", "cpu")
    assert outcome.status == 1
    assert "1 cell failed" in outcome.out
    assert "nothing left" in outcome.out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--row", "9"), "has the rows 1 to 3"),
        (("--row", "0"), "has the rows 1 to 3"),
        (("--row", "mean"), "expected a number from 1 to 3"),
        (("--row", "1", "--data", "spectra"), "these are other images"),
    ],
)
def test_what_cannot_be_the_same_row_is_refused_in_a_line(board, more, said, dpbench):
    outcome = dpbench("reproduce", board, *more)
    assert (outcome.status, len(outcome.err.splitlines())) == (2, 1)
    assert said in outcome.err


def test_plugins_of_another_version_are_refused(board, dpbench, monkeypatch):
    monkeypatch.setattr(reproduction, "source_of", lambda cls: "v9")
    outcome = dpbench("reproduce", board, "--row", "1")
    assert outcome.status == 2
    assert "is not what the row was measured with (v" in outcome.err


def test_a_board_without_records_is_refused(board, tmp_path, dpbench):
    shutil.copy(board, tmp_path / "alone.csv")
    assert "there are no records of it" in dpbench("reproduce", tmp_path / "alone.csv", "--row", "1").err


def test_a_row_that_its_records_do_not_give_is_refused(board, tmp_path, dpbench):
    shutil.copytree(board.parent / "records", tmp_path / "records")
    (tmp_path / "tiny.csv").write_text(board.read_text().replace("none", "strong"))
    outcome = dpbench("reproduce", tmp_path / "tiny.csv", "--row", "1")
    assert outcome.status == 2
    assert "does not come out of the records" in outcome.err


def test_a_row_of_shared_features_is_made_of_its_trainings_and_attacks():
    records = [
        sharing_records.trained("own", [True, False] * 8),
        *(sharing_records.trained("defended-features", [True] * 16, defense="dpm", seed=seed) for seed in (0, 1)),
        sharing_records.trained("clean-features", [True] * 16),
        sharing_records.attacked("mean-image", "public", [0.1] * 4, "none"),
        sharing_records.attacked("decoder", "public", [0.9] * 4, "none"),
        sharing_records.attacked("decoder", "query", [0.5] * 4, "dpm"),
        sharing_records.attacked("decoder", "public", None, "dpm", error="out of memory"),
    ]
    protocol = Sharing()
    members = {row[5]: set(ids) for row, ids in protocol.members(records).items()}
    own, dpm, other, clean, floor, decoder, attacked, failed = (record.id for record in records)
    assert members == {
        "own": {own},
        "clean-features": {clean, decoder},
        "defended-features": {dpm, other, attacked, failed},
        "floor": {floor},
    }
    row = next(name for name in protocol.members(records) if name[5] == "defended-features")
    assert protocol.columns_of(records, row)["gain"] == 0.5
    assert not protocol.columns_of(records, (*row[:6], "laplace", ""))
