"""What users get wrong: one clear line, exit status 2 (or a failed row), and nothing lost."""

import errno
import os
import textwrap

import numpy as np
import pandas as pd
import pytest
from command_line import refused
from PIL import Image
from tiny_suite import SUITE

from dpbench.errors import DpbenchError
from dpbench.records import store


@pytest.fixture
def suite(tmp_path):
    def write(text=SUITE):
        path = tmp_path / "tiny.toml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("victims = 4", "victims =", ["TOML syntax error", "line 3"]),
        ("victims = 4", "victim = 4", ["'victim'", "did you mean 'victims'"]),
        ('"mean-image"', '"mean-imag"', ["did you mean 'mean-image'"]),
        ('"none"', '"nome"', ["did you mean 'none'"]),
        ('"resnet10t"', '"resnet10x"', ["unknown backbone", "did you mean"]),
        ('"layer1"', '"layer11"', ["did you mean 'layer1"]),
        ('name = "none"', 'name = "dropout"\np = 1.5', ["parameter p = 1.5 does not fit"]),
        ('name = "leaves"', 'name = "leafs"', ["unknown dataset", "did you mean 'leaves'"]),
        ("test = 64", "test = 2", ["wants 4 victims, but dataset.test is 2"]),
        ("victims = 4", 'victims = 4\nthreat_models = ["everything"]', ["threat_models"]),
        ("victims = 4", 'victims = 4\nbudget = "huge"', ["budget"]),
        ("victims = 4", "victims = 4\nreleases = 0", ["releases"]),
        ("victims = 4", 'victims = 4\nauxiliary = ["shifted"]', ["add a table [shifted]"]),
        ("victims = 4", 'victims = 4\nensemble = "ensemble-v0"', ["did you mean 'ensemble-v"]),
    ],
)
def test_suites(suite, dpbench, tmp_path, old, new, words):
    refused(dpbench("run", suite(SUITE.replace(old, new)), "--output", tmp_path / "run"), *words)
    assert not (tmp_path / "run").exists()


def test_arguments(suite, dpbench, tmp_path):
    refused(dpbench("run", "quik"), "did you mean 'quick'")
    refused(dpbench("run", suite(), "--device", "tpu"), "expected one of auto, cpu, cuda, mps")
    refused(dpbench("run", suite(), "--only", "nothing like it"), "matches no cell")
    refused(dpbench("run", suite(), "--seed", "-1"), "negative")
    refused(dpbench("run", suite(), "--budget", "larg"), "did you mean 'large'")
    refused(dpbench("run", suite(), "--shifted", "spectra"), "has no table [shifted]")
    refused(dpbench("run", suite(), "--defense", "no.py:Such"), "there is no file")
    refused(dpbench("leaderboard", tmp_path / "nowhere", "--output", tmp_path / "b.csv"), "not a run directory")


def test_no_cuda_when_asked_for(suite, dpbench, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refused(dpbench("run", suite(), "--device", "cuda", "--output", tmp_path / "run"), "sees no cuda device")


def test_an_attack_whose_needs_exceed_the_threat_model(suite, dpbench):
    text = SUITE.replace("victims = 4", 'victims = 4\nthreat_models = ["query"]').replace("mean-image", "rmle")
    refused(dpbench("run", suite(text)), "needs 'weights'", "grants only query")


def folder(tmp_path, count=3):
    root = tmp_path / "photos"
    random = np.random.default_rng(0)
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for index in range(count):
            pixels = random.integers(0, 256, (40, 36, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{index}.png")
    return root


def test_image_folders(suite, dpbench, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(dpbench("run", suite(), "--data", tmp_path / "empty"), "empty")
    refused(dpbench("run", suite(), "--data", tmp_path / "nowhere"), "there is no folder")
    refused(dpbench("run", suite(), "--data", folder(tmp_path)), "private", "auxiliary", "test")


def test_a_corrupt_image_is_named(suite, dpbench, tmp_path):
    root = folder(tmp_path, count=20)
    (root / "a" / "7.png").write_bytes(b"this is no picture")
    small = SUITE.replace("256", "16").replace("128", "12").replace("test = 64", "test = 12")
    refused(dpbench("run", suite(small), "--data", root, "--output", tmp_path / "run"), "7.png")


def test_odd_images_are_taken_as_they_are_meant(suite, dpbench, tmp_path):
    root = folder(tmp_path, count=60)
    random = np.random.default_rng(1)
    grey = random.integers(0, 256, (50, 40), dtype=np.uint8)
    Image.fromarray(grey).save(root / "a" / "grey.png")
    Image.fromarray(random.integers(0, 256, (31, 57, 4), dtype=np.uint8)).save(root / "a" / "rgba.png")
    Image.fromarray(random.integers(0, 65536, (64, 64)).astype(np.uint16)).save(root / "b" / "sixteen.png")
    small = SUITE.replace("256", "60").replace("128", "40").replace("test = 64", "test = 20")
    assert dpbench("run", suite(small), "--data", root, "--output", tmp_path / "run").status == 0


PLUGINS = """
    from typing import ClassVar
    import torch
    from dpbench import Attack, Defense, ProtectedModel

    class Raises(Attack):
        '''Raises half way.'''
        name: ClassVar[str] = "raises"
        def reconstruct(self, seen, *, generator):
            raise ValueError("half way\\nthrough")

    class WrongShape(Attack):
        '''Returns too few images.'''
        name: ClassVar[str] = "wrong-shape"
        def reconstruct(self, seen, *, generator):
            return seen.auxiliary.images[:1]

    class NotANumber(Attack):
        '''Returns NaN.'''
        name: ClassVar[str] = "nan"
        def reconstruct(self, seen, *, generator):
            return torch.full((len(seen.released), *seen.image_shape), float("nan"))

    class Leaky(ProtectedModel):
        def transform(self, features, *, generator=None):
            return features * float("nan")

    class NanRelease(Defense):
        '''Releases NaN.'''
        name: ClassVar[str] = "nan-release"
        def build(self, split):
            return Leaky(split)

    class Fewer(ProtectedModel):
        def transform(self, features, *, generator=None):
            return features[:-1]

    class FewerRows(Defense):
        '''Drops an image.'''
        name: ClassVar[str] = "fewer-rows"
        def build(self, split):
            return Fewer(split)

    class Reshaped(ProtectedModel):
        def transform(self, features, *, generator=None):
            return features.flatten(1)

    class Unservable(Defense):
        '''Releases what the server cannot use.'''
        name: ClassVar[str] = "unservable"
        def build(self, split):
            return Reshaped(split)
"""


def test_plugins_that_break_their_contract_fail_their_cells_alone(suite, dpbench, tmp_path):
    plugins = tmp_path / "plugins.py"
    plugins.write_text(textwrap.dedent(PLUGINS))
    added = [f"--attack={plugins}:{name}" for name in ("Raises", "WrongShape", "NotANumber")]
    added += [f"--defense={plugins}:{name}" for name in ("NanRelease", "FewerRows", "Unservable")]
    outcome = dpbench("run", suite(), "--output", tmp_path / "run", *added)
    assert outcome.status == 1
    records = {(r.cell.defense.name.rpartition(":")[2], r.cell.attack.name.rpartition(":")[2]): r
               for r in store.CELLS.all(tmp_path / "run")}  # fmt: skip
    assert len(records) == 13  # the floor runs on the undefended reference alone
    assert records["none", "mean-image"].status == "ok"
    assert {key for key, record in records.items() if record.status == "ok"} == {("none", "mean-image")}
    assert "ValueError: half way through (plugins.py, line" in records["none", "Raises"].error
    assert "expected images of shape (4, 3, 32, 32)" in records["none", "WrongShape"].error
    assert "NaN or infinite pixels" in records["none", "NotANumber"].error
    assert "NaN or infinite features" in records["NanRelease", "Raises"].error
    assert "one row for each" in records["FewerRows", "Raises"].error
    assert records["Unservable", "Raises"].error
    board = pd.read_csv(tmp_path / "run" / "board.csv")
    assert (board.status == "failed").sum() == 12 + 4
    assert board.loc[board.status == "failed", "ssim"].isna().all()


def test_a_failed_cell_is_tried_again(suite, dpbench, tmp_path):
    plugin = tmp_path / "plugins.py"
    plugin.write_text(textwrap.dedent(PLUGINS))
    run = ["run", suite(), "--output", tmp_path / "run", f"--attack={plugin}:Raises"]
    assert dpbench(*run).status == 1
    again = dpbench(*run)
    assert again.status == 1
    assert "1 of 2 cells to run" in again.out


def test_a_plugin_that_does_not_import(suite, dpbench, tmp_path):
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    refused(dpbench("run", suite(), f"--defense={tmp_path / 'broken.py'}:X"), "does not import", "no_such_package")


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "cannot be written")])
def test_a_full_or_unwritable_disk_keeps_what_is_done(suite, dpbench, tmp_path, monkeypatch, code, words):
    text = SUITE + '[[attacks]]\nname = "random-image"\n'
    written = []
    original = os.fsync

    def fails_later(handle):
        written.append(handle)
        if len([path for path in (tmp_path / "run").rglob("records/*.json") if path.name[0] != "."]) >= 1:
            raise OSError(code, "no")
        original(handle)

    monkeypatch.setattr(os, "fsync", fails_later)
    outcome = dpbench("run", suite(text), "--output", tmp_path / "run")
    refused(outcome, words, "finished cells are kept")
    monkeypatch.undo()
    assert len(list(store.CELLS.all(tmp_path / "run"))) == 1
    assert not list((tmp_path / "run").rglob(".*"))


def test_an_output_that_is_a_file(suite, dpbench, tmp_path):
    (tmp_path / "run").write_text("a file")
    refused(dpbench("run", suite(), "--output", tmp_path / "run"), "cannot be written")
    assert (tmp_path / "run").read_text() == "a file"


@pytest.fixture
def finished(suite, dpbench, tmp_path):
    run = tmp_path / "run"
    assert dpbench("run", suite(), "--output", run).status == 0
    return run, next((run / "records").glob("*.json"))


def test_a_record_cut_short(finished, suite, dpbench, tmp_path):
    run, record = finished
    whole = record.read_text()
    record.write_text(whole[: len(whole) // 2])
    refused(dpbench("leaderboard", run, "--output", tmp_path / "b.csv"), "cut short or damaged", "run the suite again")
    assert not (tmp_path / "b.csv").exists()
    assert dpbench("run", suite(), "--output", run).status == 0  # that cell is measured again
    assert store.CELLS.read(record).status == "ok"


def test_a_record_from_a_newer_schema_is_not_overwritten(finished, suite, dpbench, tmp_path):
    run, record = finished
    newer = record.read_text().replace(f'"schema_version": {store.Record.SCHEMA}', '"schema_version": 99', 1)
    record.write_text(newer)
    refused(dpbench("leaderboard", run, "--output", tmp_path / "b.csv"), "schema 99", "upgrade dpbench")
    refused(dpbench("run", suite(), "--output", run), "schema 99", "upgrade dpbench")
    assert record.read_text() == newer


def test_baselines(finished, dpbench, tmp_path):
    run, _ = finished
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    refused(dpbench("check", run, "--baseline", tmp_path / "other.csv"), "other.csv", "lacks the columns dataset")
    refused(dpbench("check", run, "--baseline", tmp_path / "nowhere.csv"), "nowhere.csv")
    refused(dpbench("check", tmp_path / "nowhere", "--baseline", run / "board.csv"), "nowhere")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    refused(dpbench("check", run, "--baseline", tmp_path / "binary.csv"), "binary.csv")
    refused(dpbench("leaderboard", run, "--output", tmp_path / "board.xlsx"), ".csv", ".md", ".html", ".tex")


def test_a_damaged_cache_is_made_again(suite, dpbench, tmp_path, monkeypatch):
    monkeypatch.setenv("DPBENCH_CACHE", str(tmp_path / "cache"))
    assert dpbench("run", suite(), "--output", tmp_path / "one").status == 0
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    assert dpbench("run", suite(), "--output", tmp_path / "two").status == 0
    one, two = (next(iter(store.CELLS.all(tmp_path / name))) for name in ("one", "two"))
    assert one.fidelity == two.fidelity
    assert one.utility == two.utility


def test_errors_are_one_line():
    assert "\n" not in str(DpbenchError("one line"))
