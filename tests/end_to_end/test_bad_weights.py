"""Backbones and weights that cannot be used: one clear line, exit status 2, nothing computed and nothing run."""

import hashlib
import os

import pytest
import timm
import torch
from command_line import refused
from tiny_suite import SUITE

from dpbench.records import store

EFFICIENTNET = '[[backbones]]\nname = "efficientnet_b8"\nweights = "pretrained"\nsplit_points = [0]\n'


@pytest.fixture
def suite(tmp_path):
    """Writes the suite, one text of it replaced by another."""

    def write(old="", new=""):
        path = tmp_path / "tiny.toml"
        path.write_text(SUITE.replace(old, new))
        return path

    return write


def saved(path, name, classes, **arguments):
    torch.save(timm.create_model(name, num_classes=classes, **arguments).state_dict(), path)
    return path


class Bomb:
    """Pickled: a command that leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def test_weights_files(suite, dpbench, tmp_path):
    run = ["run", suite(), "--output", tmp_path / "run", "--weights"]
    refused(dpbench(*run, tmp_path / "none.pth"), "there is no weights file", "auto, pretrained, fit")
    good = saved(tmp_path / "good.pth", "resnet10t", 5)
    other = saved(tmp_path / "other.pth", "test_vit", 5)
    refused(dpbench(*run, other), "do not fit backbone 'resnet10t'", "missing: conv1.0.weight", "unexpected: cls_token")
    (tmp_path / "cut.pth").write_bytes(good.read_bytes()[:10_000])
    refused(dpbench(*run, tmp_path / "cut.pth"), "cut.pth are cut short", "copy the file again")
    torch.save({"state_dict": Bomb(tmp_path / "trace")}, tmp_path / "bomb.pth")
    refused(dpbench(*run, tmp_path / "bomb.pth"), "bomb.pth were refused", "could run code")
    assert not (tmp_path / "trace").exists()
    assert not (tmp_path / "run").exists()


def test_weights_for_one_of_several_backbones(suite, dpbench):
    second = '[[backbones]]\nname = "resnet18"\nsplit_points = ["layer1"]\n'
    refused(
        dpbench("run", suite("[[defenses]]", second + "[[defenses]]"), "--weights", "a.pth"),
        "has 2 backbones (resnet10t, resnet18)",
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('weights = "fit"', 'weights = "pretraind"', ["no weights file 'pretraind'", "auto, pretrained, fit"]),
        ('weights = "fit"', 'weights = "fit"\nargs = {num_classes = 7}', ["num_classes = 7", "remove it"]),
        ('name = "resnet10t"', 'name = "inception_v4"', ["does not take images of 32 x 32", "made for 299 x 299"]),
        ('name = "resnet10t"', 'name = "resnet10t"\nargs = {features_only = true}', ["has no classifier"]),
        ("[[backbones]]", EFFICIENTNET + "[[backbones]]", ["timm has no pre-trained weights for 'efficientnet_b8'"]),
    ],
)
def test_backbones_that_cannot_do_what_is_asked(suite, dpbench, tmp_path, old, new, words):
    refused(dpbench("run", suite(old, new), "--output", tmp_path / "run"), *words)
    assert not (tmp_path / "run").exists()


def test_weights_for_other_classes_are_fine_tuned_and_named_by_content(suite, dpbench, tmp_path):
    saved(tmp_path / "good.pth", "resnet10t", 5)
    outcome = dpbench("run", suite(), "--weights", tmp_path / "good.pth", "--output", tmp_path / "run")
    assert outcome.status == 0, outcome
    (record,) = store.CELLS.all(tmp_path / "run")
    digest = hashlib.sha256((tmp_path / "good.pth").read_bytes()).hexdigest()
    assert record.backbone_weights.startswith(f"file:{digest[:16]} sha256:")
    (tmp_path / "good.pth").rename(tmp_path / "moved.pth")
    again = dpbench("run", suite(), "--weights", tmp_path / "moved.pth", "--output", tmp_path / "run")
    assert "0 of 1 cells to run" in again.out
