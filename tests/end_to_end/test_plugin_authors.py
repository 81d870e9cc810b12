"""What authors of plug-ins get to see: curves and images that they log, where it broke, what was clamped."""

from pathlib import Path

import pytest
from PIL import Image
from tiny_suite import SUITE

from dpbench.records import store

PLUGINS = '''
import torch
from dpbench import Attack
from neighbour import grey


class Logs(Attack):
    """Grey images, with a curve and a few images on the way; a tenth of the values is outside [0, 1]."""

    name, needs = "logs", "nothing"

    def reconstruct(self, seen, *, generator):
        images = grey(seen)
        for step in range(1000):
            seen.log(step, loss=torch.tensor(1 / (step + 1)), gap=float("nan") if step else 0.5)
        for step in range(0, 100, 5):
            seen.log(step, image=images)
        images.flatten(1)[:, : images[0].numel() // 10] = 1.5
        return images


class Breaks(Attack):
    """Fails in a neighbour of this file."""

    name, needs = "breaks", "nothing"

    def reconstruct(self, seen, *, generator):
        return grey(seen, size=0)


class LogsText(Attack):
    """Logs what is no number."""

    name, needs = "logs-text", "nothing"

    def reconstruct(self, seen, *, generator):
        seen.log(0, loss="low")
'''

NEIGHBOUR = """
import torch


def grey(seen, size=1):
    return torch.full((len(seen.released), *seen.image_shape), 0.5) * (1 / size)
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("authors")
    (folder / "mine.py").write_text(PLUGINS)
    (folder / "neighbour.py").write_text(NEIGHBOUR)
    attacks = "".join(f'[[attacks]]\nname = "mine.py:{name}"\n' for name in ("Logs", "Breaks", "LogsText"))
    (folder / "tiny.toml").write_text(f"{SUITE}{attacks}")
    return folder


def test_what_is_logged_and_where_it_broke_is_in_the_records(written, dpbench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the plug-ins lie beside the suite, not here
    outcome = dpbench("run", written / "tiny.toml", "--output", "run", "--device", "cpu")
    assert outcome.status == 1, outcome
    assert "clamped to [0, 1]: resnet10t layer1 | none | logs" in outcome.out
    assert "10.0% of its values, from 0.5 to 1.5; expected images in [0, 1]" in outcome.out
    records = {record.cell.attack.name.split(":")[-1]: record for record in store.CELLS.all(tmp_path / "run")}

    notes = records["Logs"].notes
    assert notes["curves"].keys() == {"loss", "gap"}
    assert notes["curves"]["gap"] == [[0, 0.5]]
    loss = notes["curves"]["loss"]
    assert 100 <= len(loss) <= 200
    assert (loss[0], loss[-1]) == ([0, 1.0], [999, pytest.approx(0.001)])
    with Image.open(tmp_path / "run" / "steps" / f"{records['Logs'].id}.png") as picture:
        assert picture.height > picture.width / 2

    lines = records["Breaks"].notes["traceback"].splitlines()
    assert any(line.endswith("in reconstruct: return grey(seen, size=0)") for line in lines)
    assert any("neighbour.py:6 in grey" in line for line in lines)
    assert any(line.startswith("ZeroDivisionError: ") for line in lines)
    assert str(written.parent) not in records["Breaks"].notes["traceback"]
    assert "log(loss=str): expected one number" in records["LogsText"].error
    assert "traceback" not in records["mean-image"].notes
    assert dpbench("verify", "run").status == 0

    shown = dpbench("--debug", "run", written / "tiny.toml", "--output", "run", "--device", "cpu", "--only", "breaks")
    assert shown.status == 1
    assert "in a process of its own:" in shown.err
    assert "neighbour.py:6 in grey" in shown.err
