"""Paths in a suite file are meant as seen from that file."""

from pathlib import Path

import pytest

from dpbench.models.spec import BackboneSpec
from dpbench.protocols.known import loaded
from dpbench.suite import preflight
from dpbench.suite.files import beside

SUITE = """
name = "paths"
metrics = ["metric.py:M"]
[dataset]
name = "photos"
[shifted]
name = "other"
[[backbones]]
name = "resnet10t"
weights = "weights.pth"
split_points = ["layer1"]
[[defenses]]
name = "plugins/mine.py:X"
mask = "mask.pth"
mode = "fast"
[[attacks]]
name = "rmle"
"""


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "team"
    for name in ("photos", "other", "plugins"):
        (place / name).mkdir(parents=True)
    for name in ("metric.py", "weights.pth", "plugins/mine.py", "mask.pth", "fast", "rmle"):
        (place / name).write_text("")
    (place / "suite.toml").write_text(SUITE)
    return place


@pytest.mark.parametrize("where", ["", "team", "plugins"])
def test_from_wherever_it_is_called(folder, where, monkeypatch):
    start = {"": folder.parent, "team": folder, "plugins": folder / "plugins"}[where]
    monkeypatch.chdir(start)
    given = {"": "team/suite.toml", "team": "suite.toml", "plugins": str(folder / "suite.toml")}[where]
    _, suite = loaded(given)
    defense = suite.defenses[0]
    for text in (suite.dataset.name, suite.shifted.name):
        assert (start / text).is_dir()
    for text in (suite.backbones[0].weights, defense.model_extra["mask"]):
        assert (start / text).is_file()
    assert (start / defense.name.removesuffix(":X")).is_file()
    assert (start / suite.metrics[0].removesuffix(":M")).is_file()
    assert (suite.attacks[0].name, defense.model_extra["mode"]) == ("rmle", "fast")


def test_what_lies_in_the_working_folder_alone_is_found_as_before(folder, monkeypatch):
    (folder / "mask.pth").rename(folder.parent / "mask.pth")
    monkeypatch.chdir(folder.parent)
    _, suite = loaded("team/suite.toml")
    assert suite.defenses[0].model_extra["mask"] == "mask.pth"


@pytest.mark.parametrize("name", ["leaves", "torch/cifar10", "/photos", "~/photos", "gone", "x" * 5000, "a\0b"])
def test_names_and_whole_paths_stay(folder, name):
    (folder / "leaves").mkdir()
    content = {"dataset": {"name": name}, "defenses": [{"name": name, "at": 3}], "backbones": "no list"}
    assert beside(content, folder) == content


def test_built_in_suites_know_no_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "torch").mkdir()
    _, suite = loaded("quick")
    assert suite.dataset.name == "leaves"


def test_files_of_a_network_of_ones_own_lie_beside_the_suite(folder, monkeypatch):
    for name in ("net.py", "tail.onnx", "classes.npz"):
        (folder / name).write_text("")
    monkeypatch.chdir(folder.parent)
    given = {"name": "net.py:build", "server": "tail.onnx", "class_embeddings": "classes.npz", "weights": "auto"}
    found = beside({"backbones": [given], "backbone": given}, Path("team"))
    expected = {
        "name": "team/net.py:build",
        "server": "team/tail.onnx",
        "class_embeddings": "team/classes.npz",
        "weights": "auto",
    }
    assert found == {"backbones": [expected], "backbone": expected}
    assert beside({"backbones": [{"name": "resnet50.a1_in1k"}]}, Path("team"))["backbones"] == [
        {"name": "resnet50.a1_in1k"}
    ]


def test_what_a_finished_run_rests_on_holds_its_class_embeddings():
    plain = BackboneSpec(name="resnet10t", weights="w.pth")
    named = plain.model_copy(update={"head": "zero-shot", "class_embeddings": "classes.npz"})
    assert preflight.inputs([], [], plain) == [Path("w.pth")]
    assert preflight.inputs([], [], named) == [Path("w.pth"), Path("classes.npz")]
