"""A run with an encoder: the probe's accuracy, said in the record; what is not on this machine, said in a line."""

import json

import pytest
from tiny_suite import SUITE

from dpbench.models import weights

ENCODER = SUITE.replace('name = "resnet10t"', 'name = "test_vit"\nhead = "probe"').replace('["layer1"]', '["blocks.1"]')


@pytest.fixture
def nothing_at_hand(monkeypatch):
    monkeypatch.setattr(weights, "_at_hand", lambda config: False)


def test_the_accuracy_is_the_probe_s_and_the_record_says_so(dpbench, tmp_path):
    (tmp_path / "tiny.toml").write_text(ENCODER)
    done = dpbench("run", tmp_path / "tiny.toml", "--output", tmp_path / "run", "--device", "cpu")
    assert done.status == 0, done.err
    (path,) = (tmp_path / "run" / "records").glob("*.json")
    record = json.loads(path.read_text())
    assert record["cell"]["backbone"]["head"] == "probe"
    assert record["backbone_weights"].startswith("fitted probe sha256:")
    assert len(record["utility"]["correct"]) == 64
    assert sum(record["utility"]["correct"]) > 6, "no better than chance"


def test_encoders_that_are_not_here_are_named(dpbench, tmp_path, nothing_at_hand):
    done = dpbench("run", "encoders", "--data", "leaves", "--output", tmp_path / "run", "--dry-run")
    assert done.status == 2
    (line,) = done.err.strip().splitlines()
    for word in ("no weights on this machine for", "dinov2", "clip", "siglip", "mae", "pretrained=True"):
        assert word in line


def test_encoders_that_are_here_run(dpbench, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "_at_hand", lambda config: "dinov2" in (config.architecture or ""))
    done = dpbench("run", "encoders", "--data", "leaves", "--output", tmp_path / "run", "--dry-run")
    assert done.status == 0, done.err
    assert "vit_small_patch14_dinov2" in done.out
    assert "left out: no weights on this machine for" in done.out + done.err
