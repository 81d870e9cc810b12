"""`dpbench score`: metrics of kept images, after the fact."""

import csv
import json

import kept_run
import pytest

from dpbench.board.files import read_board
from dpbench.cells.kept_images import load_images
from dpbench.metrics.grading import grade
from dpbench.records.pictures import reconstructions_path
from dpbench.records.record_files import digest_of
from dpbench.records.store import CELLS

OWN = '''
import dpbench

class Largest(dpbench.Metric):
    """The largest difference."""

    name, closer, decimals, low, high = "largest", "lower", 3, 0.0, 1.0

    def measure(self, images, victims):
        return (images - victims).abs().flatten(1).amax(1)
'''


@pytest.fixture
def run(tmp_path):
    """A run whose records lack PSNR."""
    kept_run.make_run(tmp_path / "run")
    for path in CELLS.files(tmp_path / "run"):
        edit(path, lambda content: content["fidelity"].pop("psnr_db"))
    return tmp_path / "run"


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps({**content, "digest": digest_of(content)}))


def test_a_metric_that_was_missing_is_in_records_and_board_and_is_verified(run, dpbench):
    outcome = dpbench("score", run, "--metric", "psnr_db")
    assert outcome.status == 0, outcome
    (first, second) = CELLS.all(run)
    victims, images = (tensor.float() / 255 for tensor in load_images(reconstructions_path(run, first.id)))
    assert first.fidelity["psnr_db"] == grade(images, victims)[0]["psnr_db"]
    assert first.scored == second.scored == ["psnr_db"]
    assert read_board(run / "board.csv")["psnr_db"].notna().all()
    with (run / "scores" / "psnr_db.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert float(rows[0]["psnr_db"]) == first.fidelity["psnr_db"][0]
    assert dpbench("verify", run).status == 0
    again = dpbench("score", run, "--metric", "psnr_db")
    assert (again.status, again.out) == (0, "note: psnr_db is in 2 records already\n")


def test_a_metric_of_ones_own_is_measured_apart_and_has_a_column(run, tmp_path, dpbench):
    (tmp_path / "own.py").write_text(OWN)
    outcome = dpbench("score", run, "--metric", f"{tmp_path}/own.py:Largest")
    assert outcome.status == 0, outcome
    assert read_board(run / "board.csv")["largest"].between(0.01, 1).all()
    assert dpbench("verify", run).status == 0


def test_of_more_victims_than_are_kept_figures_stay_out_of_the_record(run, dpbench, monkeypatch):
    for path in CELLS.files(run):

        def more(content):
            content["cell"]["victims"] = 5
            content["victims"].append("0" * 16)
            content["fidelity"] = {"ssim": [0.5] * 5}
            content["recognition"] = None

        edit(path, more)
    before = [path.read_text() for path in CELLS.files(run)]
    outcome = dpbench("score", run, "--metric", "mse")
    assert outcome.status == 0, outcome
    assert "over 4 victims, of 5: not in the record" in outcome.out
    assert [path.read_text() for path in CELLS.files(run)] == before
    assert (run / "scores" / "mse.csv").is_file()


def test_what_cannot_be_scored_is_said(run, tmp_path, dpbench):
    assert "unknown metric 'lpip'; did you mean 'lpips'?" in dpbench("score", run, "--metric", "lpip").err
    assert dpbench("score", tmp_path, "--metric", "lpips").status == 2
    assert dpbench("leaderboard", run, "--output", tmp_path / "run.jsonl.xz").status == 0
    assert "holds records alone" in dpbench("score", tmp_path / "run.jsonl.xz", "--metric", "mse").err
    first, second = CELLS.all(run)
    reconstructions_path(run, first.id).write_bytes(reconstructions_path(run, second.id).read_bytes() + b" ")
    assert "is not the file that was written" in dpbench("score", run, "--metric", "psnr_db").err
    for record in (first, second):
        reconstructions_path(run, record.id).unlink()
    outcome = dpbench("score", run, "--metric", "psnr_db")
    assert (outcome.status, outcome.out.count("its images are gone")) == (1, 2)
