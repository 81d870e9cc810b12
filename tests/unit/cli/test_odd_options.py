"""What a file, a run or a name cannot have is refused in a line: nothing asked for is passed over in silence."""

import pytest
from kept_run import make_run, make_sharing_run

from dpbench.records.progress import Progress


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd") / "run"
    make_run(folder)
    return folder


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--output", "x.csv", "--plot", "pareto"), "--plot: expected --output FILE in .png, .pdf, .svg, not x.csv"),
        (("--output", "x.jsonl.xz", "--plot", "pareto"), "--plot: expected --output FILE in .png"),
        (("--output", "x.jsonl.xz", "--rows", "all"), "--rows: expected --output FILE in .tex"),
        (("--output", "x.jsonl.xz", "--equal-accuracy"), "--equal-accuracy: a file of records"),
        (("--output", "x.jsonl.xz", "--beside", "y.csv"), "--beside: a file of records"),
        (("--equal-accuracy", "--labels", "none=X"), "--labels: expected --output FILE in .png, .pdf, .svg, .tex; or"),
        (("--equal-accuracy", "--columns", "ssim"), "--columns: expected --output FILE in .tex; or leave it out"),
    ],
)
def test_a_board_refuses_what_its_file_has_no_room_for(run, more, said, dpbench, monkeypatch):
    monkeypatch.chdir(run.parent)
    outcome = dpbench("leaderboard", run, *more)
    assert (outcome.status, outcome.out, len(outcome.err.splitlines())) == (2, "", 1)
    assert said in outcome.err
    assert not list(run.parent.glob("x.*"))


def test_the_matrix_of_transfers_is_a_table_too(tmp_path, dpbench):
    make_sharing_run(tmp_path / "run")
    arguments = ("leaderboard", tmp_path / "run", "--output", tmp_path / "x.csv", "--plot")
    assert dpbench(*arguments, "transfer").status == 0
    assert "--plot: expected --output FILE in .png" in dpbench(*arguments, "benefit").err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list", "suites", "smoky"), "unknown suite 'smoky'; did you mean 'smoke'?"),
        (("list", "attacks", "zzz*"), "unknown attack 'zzz*'"),
        (("leaderboard", __file__, "--output", "x.csv"), "is not a run directory, nor a file of records (.jsonl.xz)"),
        (("run", "smoke", "--address", "auto"), "--address auto is of a cluster; add --executor ray"),
        (("run", "smoke", "--defense", "gaussian std=1 + laplace"), "all names before the first parameter"),
    ],
)
def test_nothing_is_passed_over(arguments, said, dpbench):
    outcome = dpbench(*arguments)
    assert (outcome.status, outcome.out, len(outcome.err.splitlines())) == (2, "", 1)
    assert said in outcome.err


def test_a_picture_is_a_png(run, dpbench):
    outcome = dpbench("show", run, "--cell", "rmle", "--output", run / "x.txt")
    assert (outcome.status, "ends in .png" in outcome.err, (run / "x.txt").exists()) == (2, True, False)


def test_a_run_that_was_stopped_half_way_does_not_pass_the_gate(run, dpbench):
    gate = ("gate", run, "--max-ssim", "1")
    assert dpbench(*gate).status == 0
    Progress.begin(run, [*(path.stem for path in (run / "records").glob("*.json")), "one-more", "another"])
    outcome = dpbench(*gate)
    assert (outcome.status, outcome.out.splitlines()[0]) == (
        1,
        "NO: 2 of 4 cells of this run are not measured yet; the same `dpbench run` goes on",
    )
    assert '"verdict": "NO"' in dpbench(*gate, "--json").out
    beyond = dpbench("gate", run, "--max-ssim", "0.01").out
    assert beyond.startswith("NO: layer1, none: SSIM")
    assert "note: 2 of 4 cells of this run are not measured yet" in beyond
    assert dpbench("report", run, "--output", run / "report.html").status == 0
    assert "2 of 4 cells of this run are not measured yet." in (run / "report.html").read_text()
