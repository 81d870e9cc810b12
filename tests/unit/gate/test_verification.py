"""`dpbench verify` and `dpbench show` on runs that somebody changed."""

import json
import re
import shutil

import kept_run
import pytest
import safetensors.torch
import torch

from dpbench.records import store
from dpbench.records.pictures import reconstructions_path
from dpbench.records.record_files import digest_of
from dpbench.records.store import CELLS, picture_path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    run = tmp_path_factory.mktemp("made") / "run"
    kept_run.make_run(run)
    return run


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def first(run):
    return sorted((run / "records").glob("*.json"))[0]


def forge(path, change, *, sealed=True):
    """Edits a record as somebody would who knows of the digest, or does not."""
    content = json.loads(path.read_text())
    change(content)
    if sealed:
        content["digest"] = digest_of(content)
    path.write_text(json.dumps(content))


def test_a_run_as_it_was_written_is_verified(run, dpbench):
    outcome = dpbench("verify", run)
    assert outcome.status == 0, outcome
    assert outcome.out.splitlines() == [
        "verified: nothing contradicts itself in 2 records, the figures of 8 images computed again"
    ]
    assert dpbench("verify", run, run).status == 0


def test_what_is_no_run_is_exit_2(tmp_path, dpbench):
    outcome = dpbench("verify", tmp_path)
    assert outcome.status == 2
    assert "is not a run directory" in outcome.err


def _figure(metric, value):
    return lambda content: content["fidelity"].update({metric: [value] * kept_run.VICTIMS})


FORGED = {
    "better SSIM": (_figure("ssim", 0.05), "ssim of victim 0 is 0.0500 in the record"),
    "better MSE": (_figure("mse", 0.2), "mse of victim 0"),
    "better PSNR": (_figure("psnr_db", 6.0), "psnr_db of victim 0"),
    "other victims": (lambda c: c.update(victims=["0" * 16] * 4), "the image of victim 0 is another"),
    "a floor": (lambda c: c.update(floor=True), "says that 'decoder' is a floor, which it is not"),
    "another cell": (lambda c: c["cell"].update(seed=7), "its id does not belong"),
    "another accuracy": (lambda c: c["utility"]["correct"].__setitem__(0, False), "has another accuracy than"),
    "fewer test images": (lambda c: c["utility"].update(correct=[True]), "an answer for 1 test images"),
    "impossible": (_figure("mse", -1), "mse is -1.0, expected in [0, 1]"),
    "nothing kept": (lambda c: c.update(kept={"x": ""}), "was not written with it"),
    "another name": (lambda c: c["words"].update(label="none | decoder"), "its words do not belong"),
}


@pytest.mark.parametrize("name", FORGED)
def test_figures_that_were_edited_are_found_with_a_digest_made_anew(run, dpbench, name):
    change, words = FORGED[name]
    forge(first(run), change)
    outcome = dpbench("verify", run)
    assert outcome.status == 1, outcome
    verdict, *findings = outcome.out.splitlines()
    assert re.match(r"failed: \d+ findings in \d+ files; 2 records", verdict)
    assert any(words in line for line in findings), outcome.out


def test_an_edit_without_a_new_digest_is_found_and_stops_every_reader(run, dpbench, tmp_path):
    forge(first(run), lambda content: content.update(suite="mine"), sealed=False)
    assert "its content does not fit its digest" in dpbench("verify", run).out
    for verb in (
        ["show", run],
        ["leaderboard", run, "--output", tmp_path / "b.csv"],
        ["check", run, "--baseline", run],
    ):
        outcome = dpbench(*verb)
        assert outcome.status == 2
        assert first(run).name in outcome.err
        assert "delete it and run the suite again" in outcome.err
        assert len(outcome.err.splitlines()) == 1


def test_a_digest_that_was_taken_off_is_missed(run, dpbench):
    forge(first(run), lambda content: content.pop("digest"), sealed=False)
    assert "it has no digest, which every record of its time has" in dpbench("verify", run).out


def test_records_of_before_are_verified_and_said_to_have_no_digest(run, dpbench):
    for path in (run / "records").glob("*.json"):
        content = json.loads(path.read_text())
        for later in ("digest", "words", "kept"):
            del content[later]
        path.write_text(json.dumps(content | {"schema_version": 2}))
    outcome = dpbench("verify", run)
    assert outcome.status == 0, outcome
    assert "note: " in outcome.out
    assert "2 records have no digest" in outcome.out
    assert dpbench("show", run).status == 0


def _swap(run):
    one, two = (reconstructions_path(run, path.stem) for path in sorted((run / "records").glob("*.json")))
    pairs = safetensors.torch.load_file(one)
    safetensors.torch.save_file({**pairs, "reconstructions": pairs["victims"].clone()}, two)


def _noise(run):
    path = reconstructions_path(run, first(run).stem)
    pairs = safetensors.torch.load_file(path)
    safetensors.torch.save_file({**pairs, "victims": torch.zeros_like(pairs["victims"])}, path)


DAMAGED = {
    "images of another": (_swap, "is not the file that was written with it"),
    "victims painted over": (_noise, "the image of victim 0 is another"),
    "no picture": (lambda run: picture_path(run, first(run).stem).unlink(), ".png is gone"),
    "no reconstructions": (lambda run: shutil.rmtree(run / "reconstructions"), ".safetensors is gone"),
    "no safetensors": (
        lambda run: reconstructions_path(run, first(run).stem).write_text("x"),
        "is damaged",
    ),
    "a copied record": (lambda run: shutil.copy(first(run), run / "records" / "better.json"), "under another name"),
    "an edited board": (
        lambda run: (run / "board.csv").write_text((run / "board.csv").read_text().replace("0.8", "0.1")),
        "is not the board of these records",
    ),
    "a record cut short": (lambda run: first(run).write_text(first(run).read_text()[:200]), "cut short or damaged"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_files_that_were_exchanged_are_found(run, dpbench, name):
    change, words = DAMAGED[name]
    change(run)
    outcome = dpbench("verify", run)
    assert outcome.status == 1, outcome
    assert words in outcome.out


def test_runs_of_the_other_protocol_are_verified_too(tmp_path, dpbench):
    run = tmp_path / "run"
    record = kept_run.make_sharing_run(run)
    assert dpbench("verify", run).status == 0
    path = run / "sharing" / f"{record.id}.json"
    whole = path.read_text()
    for change, words in (
        (_figure("ssim", 0.05), "ssim of victim 0"),
        (lambda content: content["unit"].update(victims=5), "4 victims, the unit has 5"),
        (lambda content: content["unit"].update(knowledge="own"), "its id does not belong"),
    ):
        path.write_text(whole)
        forge(path, change)
        outcome = dpbench("verify", run)
        assert outcome.status == 1
        assert words in outcome.out


def test_show_says_what_is_gone(run, dpbench, tmp_path):
    name = first(run).stem
    picture_path(run, name).unlink()
    listed = dpbench("show", run)
    assert listed.status == 0
    assert sum("(its picture is gone)" in line for line in listed.out.splitlines()) == 1
    outcome = dpbench("show", run, "--cell", name, "--output", tmp_path / "x.png")
    assert outcome.status == 2
    assert "is gone; delete" in outcome.err
    reconstructions_path(run, name).unlink()
    outcome = dpbench("show", run, "--output", tmp_path / "x.png")
    assert outcome.status == 2
    assert ".safetensors of" in outcome.err
    assert not (tmp_path / "x.png").exists()


def test_show_says_that_nothing_finished(tmp_path, dpbench):
    from record_factory import make_record

    store.CELLS.write(tmp_path, make_record(failed="no memory"))
    outcome = dpbench("show", tmp_path)
    assert outcome.status == 2
    assert "holds no finished attack" in outcome.err


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(victims=[], fidelity={}, recognition=None),
        lambda content: content["utility"].update(correct=[]),
        lambda content: content.update(fidelity={}),
        lambda content: content.update(utility=None),
        lambda content: content["cell"]["defense"].update(name="a | b"),
        lambda content: content["words"].update(label="no bars at all"),
    ],
)
def test_show_of_a_record_that_lacks_something_is_no_traceback(run, dpbench, change):
    forge(first(run), change)
    outcome = dpbench("show", run)
    assert outcome.status in (0, 2)
    assert len(outcome.err.splitlines()) == (1 if outcome.status else 0)


def test_the_picture_goes_to_a_link_s_target_and_to_a_device(run, dpbench, tmp_path):
    name = first(run).stem
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    assert dpbench("show", run, "--cell", name, "--output", tmp_path / "link.png").status == 0
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "real.png").read_bytes() == picture_path(run, name).read_bytes()
    assert dpbench("show", run, "--cell", name, "--output", "/dev/null").status == 0
    outcome = dpbench("show", run, "--cell", name, "--output", tmp_path)
    assert outcome.status == 2
    assert "is a folder" in outcome.err


def test_lost_records_are_written_again(run):
    records = list(store.CELLS.all(run))
    shutil.rmtree(run)
    assert store.CELLS.restore(run, records) == 2
    assert list(store.CELLS.all(run)) == records
    assert store.CELLS.restore(run, records) == 0
    assert CELLS.path(run, records[0].id).is_file()
