"""A run with a network of one's own, as the guide shows it."""

import json
import re
from importlib import resources

import pytest
from tiny_suite import SUITE

PAGE = (resources.files("dpbench") / "guide" / "your-network.md").read_text(encoding="utf-8")

DEFENSE = """
import dpbench

class Halved(dpbench.FeatureTransform):
    name = "halved"

    def transform(self, features, state, *, generator):
        return features / 2
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (code,) = re.findall(r"^```python\n(# my_net.py\n.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "my_net.py").write_text(code)
    (tmp_path / "my_defense.py").write_text(DEFENSE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def suite(folder, **changes):
    text = SUITE.replace('name = "resnet10t"', 'name = "my_net.py:build"').replace('"layer1"', '"stem"')
    for old, new in changes.items():
        text = text.replace(old, new)
    (folder / "tiny.toml").write_text(text)
    return "tiny.toml"


def test_it_is_trained_defended_in_another_process_and_attacked(folder, dpbench):
    done = dpbench("run", suite(folder), "--defense", "my_defense.py:Halved", "--output", "run", "--device", "cpu")
    assert done.status == 0, done.err + done.out
    records = [json.loads(path.read_text()) for path in (folder / "run" / "records").glob("*.json")]
    assert {record["status"] for record in records} == {"ok"}
    for record in records:
        assert record["cell"]["backbone"]["name"] == "my_net.py:build"
        assert list(record["cell"]["backbone"]["files"]) == ["my_net.py"]
        assert record["backbone_weights"].startswith("fitted sha256:")
    again = dpbench("run", suite(folder), "--output", "run", "--device", "cpu", "--dry-run")
    assert again.status == 0


def test_a_builder_that_is_of_no_use_is_one_line(folder, dpbench):
    (folder / "my_net.py").write_text("def build():\n    raise ValueError('out of bricks')\n")
    done = dpbench("run", suite(folder), "--output", "run")
    assert done.status == 2
    (line,) = done.err.strip().splitlines()
    assert "my_net.py:build" in line
    assert "out of bricks" in line
    assert not (folder / "run").exists()
