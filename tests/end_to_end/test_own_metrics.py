"""Metrics and data sets from files: what they make, what they may not, and that nothing of them goes unnoticed."""

import numpy as np
import pandas as pd
import pytest
from tiny_suite import tiny_sharing, tiny_suite

from dpbench.api import plan
from dpbench.board.files import read_board
from dpbench.errors import DpbenchError
from dpbench.protocols.boards import read
from dpbench.protocols.sharing.records import SHARED
from dpbench.records import store

IMAGES = {"image_size": 32, "private": 32, "auxiliary": 16, "test": 16}


def suite(metrics=(), data="leaves"):
    named = {"metrics": [f"own.py:{name}" for name in metrics]} if metrics else {}
    return tiny_suite(["none"], ["random-image", "mean-image"], dataset={"name": data, **IMAGES}, judge=None, **named)


def sharing(metric):
    return tiny_sharing(
        entities={"clinic": 8, "hospital": 8},
        dataset=IMAGES,
        backbone={"epochs": 1},
        refinement={"steps": 1, "batch_size": 8},
        metrics=[f"own.py:{metric}"],
        conditions=["own"],
    )


METRIC = """
import torch
from dpbench import Metric

class Absolute(Metric):
    "Mean absolute error."
    name = "absolute"
    closer = "lower"
    low = 0.0
    high = 1.0
    def measure(self, images, victims):
        return (images - victims).abs().mean(dim=(1, 2, 3))

class Patching(Metric):
    "Patches what grades."
    name = "patching"
    def measure(self, images, victims):
        import dpbench.metrics.fidelity, dpbench.metrics.grading
        dpbench.metrics.grading.grade = lambda *a, **k: ({}, {})
        dpbench.metrics.fidelity.ssim = lambda a, b: torch.zeros(len(a))
        images.zero_(), victims.zero_()
        return torch.ones(len(images))

class Nan(Metric):
    "No number."
    name = "nothing"
    def measure(self, images, victims):
        return torch.full((len(images),), float("nan"))

class Leaving(Metric):
    "Ends its process."
    name = "leaving"
    def measure(self, images, victims):
        import os
        os._exit(0)
"""

DATA = """
import numpy as np
from pathlib import Path
import dpbench

class Blobs(dpbench.ImageSet):
    "Noise, dark or bright."
    name = "blobs"
    classes = ("dark", "bright")
    table: dpbench.File = Path(__file__).with_name("table.npy")
    def draw(self, part, indices, *, size, seed):
        offset = np.load(self.table)
        images = np.empty((len(indices), 3, size, size), np.uint8)
        for image, index in zip(images, indices, strict=True):
            drawn = np.random.default_rng([seed, len(part), index])
            image[:] = drawn.integers(0, 100, image.shape) + offset[index % 2]
        return images, np.array(indices) % 2
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with a file of metrics and one of a data set."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(METRIC)
    (tmp_path / "data.py").write_text(DATA)
    np.save(tmp_path / "table.npy", np.array([0, 150]))
    return tmp_path


@pytest.fixture
def tiny(folder, dpbench):
    """`tiny(metrics, data)` runs a suite -> the outcome."""

    def run(*metrics, data="leaves", arguments=()):
        (folder / "tiny.toml").write_text(suite(metrics, data))
        return dpbench("run", "tiny.toml", "--device", "cpu", "--output", "run", *arguments)

    return run


def records(folder):
    return {record.cell.attack.name: record for record in store.newest(store.CELLS.all(folder / "run"))}


def test_metrics_of_ones_own_stand_beside_the_others_and_change_none(tiny, tmp_path, dpbench):
    assert tiny().status == 0
    before = records(tmp_path)
    bare = (tmp_path / "run" / "board.csv").read_text()
    done = tiny("Patching", "Absolute", "Nan", "Leaving")
    assert done.status == 0, done
    after = records(tmp_path)
    for name, record in after.items():
        own = {metric: record.fidelity[metric] for metric in ("absolute", "patching")}
        assert record.fidelity == {**before[name].fidelity, **own}
        assert record.fidelity["patching"] == [1.0] * 4
        assert all(0 < value < 1 for value in record.fidelity["absolute"])
        assert record.missing_metrics["nothing"] == "metric 'nothing' is nan for image 0; expected a finite number"
        assert record.missing_metrics["leaving"].startswith("metric '")
        assert record.id != before[name].id
    assert "no nothing: metric 'nothing' is nan" in done.out
    board = read_board(tmp_path / "run" / "board.csv")
    floor = board[board["attack"] == "floor"].iloc[0]
    cells = board[board["attack"].isin(["random-image", "mean-image"])]
    assert floor["absolute"] <= cells["absolute"].min()
    assert "patching" in bare or set(pd.read_csv(tmp_path / "run" / "board.csv")) > set(bare.splitlines()[0].split(","))
    again = tmp_path / "again.csv"
    assert dpbench("leaderboard", "run", "--output", again).status == 0
    assert again.read_bytes() == (tmp_path / "run" / "board.csv").read_bytes()
    assert dpbench("verify", "run").status == 0
    assert "absolute" in dpbench("leaderboard", "run", "--output", "board.md").out + (tmp_path / "board.md").read_text()


def test_metrics_of_ones_own_in_a_sharing_suite(tmp_path, monkeypatch, dpbench):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(METRIC + '\nclass Gain(Absolute):\n    name = "gain"\n')
    (tmp_path / "tiny.toml").write_text(sharing("Absolute"))
    done = dpbench("run", "tiny.toml", "--device", "cpu", "--output", "run")
    assert done.status == 0, done
    attack = next(record for record in SHARED.all(tmp_path / "run") if record.attacked)
    assert len(attack.fidelity["absolute"]) == 4
    assert [facts.name for facts in attack.metrics] == ["absolute"]
    board, _ = read(tmp_path / "run" / "board.csv")
    floor = board[board["condition"] == "floor"].iloc[0]
    assert floor["absolute"] == pytest.approx(np.mean(attack.fidelity["absolute"]), abs=1e-4)
    assert dpbench("verify", "run").status == 0
    (tmp_path / "tiny.toml").write_text(sharing("Gain"))
    refused = dpbench("run", "tiny.toml", "--device", "cpu", "--output", "other")
    assert refused.status == 2
    assert "cannot be called 'gain'" in refused.err


def test_the_gate_goes_by_the_metric_s_own_word(tiny, tmp_path, dpbench):
    assert tiny("Absolute").status == 0
    board = pd.read_csv("run/board.csv")
    worse = board.copy()
    for column in ("absolute", "absolute_low", "absolute_high"):
        worse[column] = board[column] + 0.3
    worse.to_csv("accepted.csv", index=False)
    found = dpbench("check", "run", "--baseline", "accepted.csv")
    assert found.status == 1
    assert "leaks more" in found.out
    assert "absolute" in found.out
    assert dpbench("check", "accepted.csv", "--baseline", "run").status == 0  # further from the victims: leaks less
    board.assign(metrics=board["metrics"].str.replace("lower", "higher")).to_csv("turned.csv", index=False)
    turned = dpbench("check", "turned.csv", "--baseline", "run/board.csv")
    assert turned.status == 2
    assert "read differently" in turned.err


def test_what_a_board_says_of_metrics_is_checked(tiny, tmp_path):
    tiny("Absolute")
    board = pd.read_csv("run/board.csv")
    for changed, message in (
        (board.assign(metrics="absolute:up:4:0.1::"), "column metrics"),
        (board.assign(metrics="ssim:higher:4:0.1::"), "boards have"),
        (board.assign(absolute=2.0), "absolute is 2"),
        (board.assign(absolute="x"), "expected a number"),
    ):
        changed.to_csv("changed.csv", index=False)
        with pytest.raises(DpbenchError, match=message):
            read_board(tmp_path / "changed.csv")


def test_an_edited_metric_is_measured_again(tiny, tmp_path):
    assert tiny("Absolute").status == 0
    assert "0 of 2 cells to run" in tiny("Absolute").out
    (tmp_path / "own.py").write_text(METRIC.replace("abs().mean", "square().mean"))
    assert "own.py changed: 2 cells again" in tiny("Absolute", arguments=["--dry-run"]).out


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["Gone"], "unknown class in own.py 'Gone'"),
        (["Absolute", "Absolute"], "two metrics are called 'absolute'"),
        (["Accuracy"], "boards have such a column"),
        (["Loud"], "Input should be 'higher' or 'lower'"),
    ],
)
def test_a_metric_that_cannot_be_is_refused_in_a_line(metrics, message, folder):
    more = '\nclass Accuracy(Absolute):\n    name = "accuracy"\n\nclass Loud(Absolute):\n    closer = "up"\n'
    (folder / "own.py").write_text(METRIC + more)
    (folder / "tiny.toml").write_text(suite(metrics))
    with pytest.raises(DpbenchError, match=message) as refused:
        plan("tiny.toml")
    assert "\n" not in str(refused.value)


def test_a_data_set_of_ones_own_is_used_hashed_and_asked_again(tiny, tmp_path):
    done = tiny(data="data.py:Blobs")
    assert done.status == 0, done
    assert {record.cell.dataset.name for record in records(tmp_path).values()} == {"data.py:Blobs"}
    assert "0 of 2 cells to run" in tiny(data="data.py:Blobs").out
    assert "0 of 2 cells to run" in tiny(data="./data.py:Blobs").out
    np.save(tmp_path / "table.npy", np.array([0, 140]))
    assert "data.py:Blobs changed: 2 cells again" in tiny(data="data.py:Blobs", arguments=["--dry-run"]).out


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        ("np.uint8)\n", "np.float32)\n", "of float32; expected (32, 3, 32, 32) of uint8"),
        ("np.array(indices) % 2", "np.array(indices)", "expected 0 to 1, for its classes"),
        ("len(part), ", "", "the private and auxiliary images share"),
        ('("dark", "bright")', '("dark",)', "at least two different names"),
        ("class Blobs", "class Other", "unknown class in data.py 'Blobs'"),
        ("offset = np", 'raise dpbench.DpbenchError("only 3 images")\n        offset = np', "only 3 images"),
    ],
)
def test_a_data_set_that_cannot_be_is_refused_in_a_line(was, now, message, tiny, folder):
    (folder / "data.py").write_text(DATA.replace(was, now))
    done = tiny(data="data.py:Blobs")
    assert done.status == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
