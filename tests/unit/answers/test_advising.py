"""Where to split: costs, a probe, what comes back with its interval, the front; a table, a CSV and a picture."""

import csv
import io
import math

import pytest
import torch
from rich.console import Console

from dpbench.answers import advising, pairs, shown
from dpbench.answers.advice import Cut, marked
from dpbench.answers.advising import advise
from dpbench.answers.cuts import Cost, summary
from dpbench.errors import DpbenchError

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 4, 3, stride=4, padding=1))
        self.unused = nn.Identity()
        self.out = nn.Linear(64, classes)

    def forward(self, images):
        return self.out(self.body(self.stem(images)).flatten(1))

def build(classes):
    return Net(classes)
"""


@pytest.fixture(scope="module")
def advice(tmp_path_factory):
    folder = tmp_path_factory.mktemp("net")
    (folder / "my_net.py").write_text(NET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(advising, "STEPS", 10)
        patch.setattr(advising, "VICTIMS", 8)
        return advise(f"{folder}/my_net.py:build", images=64, split_points=["stem", "body", "unused"], device="cpu")


def test_every_cut_has_its_cost_and_what_comes_back(advice):
    stem, body = advice.cuts
    assert (stem.split_point, body.split_point) == ("stem", "body")
    assert stem.cost.multiply_adds == 8 * 27 * 16 * 16
    assert stem.cost.parameters == 8 * 27 + 8
    assert stem.cost.shape == (8, 16, 16)
    assert stem.cost.bits == 32 * 8 * 16 * 16
    assert 0 < stem.cost.share < body.cost.share <= 1
    assert stem.cost.milliseconds > 0
    for cut in advice.cuts:
        mean, low, high = cut.ssim
        assert low <= mean <= high
        assert mean >= max(cut.by_attack.values()) - 1e-9
        assert 0 <= cut.probe <= 1
    assert stem.ssim[0] > max(body.ssim[0], advice.floor)
    assert any("unused" in line for line in advice.left_out)


def test_it_is_shown_as_a_table_a_csv_and_a_picture(advice, tmp_path):
    out = io.StringIO()
    shown.print_advice(advice, Console(file=out, width=120))
    for word in ("stem", "kbit", "probe", "decoder", "on the front", "It does not show", "left out"):
        assert word in out.getvalue()
    table, picture = shown.write_advice(advice, tmp_path)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["split_point"] for row in rows] == ["stem", "body"]
    assert tuple(rows[0]) == shown.COLUMNS
    assert picture.stat().st_size > 1000


def cut(name, multiply_adds, bits, ssim):
    return Cut(name, Cost(multiply_adds, 0.5, 1, bits, 1.0, (1,)), 0.5, (ssim, ssim, ssim), {})


def test_the_front_holds_what_nothing_beats():
    found = marked(
        [cut("deep", 9, 5, 0.1), cut("shallow", 1, 5, 0.8), cut("beaten", 9, 6, 0.2), cut("wide", 2, 9, 0.8)]
    )
    assert [one.split_point for one in found if one.front] == ["shallow", "deep"]


@pytest.mark.parametrize("shape", [(64, 8, 8), (2048, 7, 7), (197, 192), (5000,), (8, 8, 96)])
def test_a_probe_reads_few_values_of_any_layout(shape):
    side = 224 if shape in ((2048, 7, 7), (197, 192)) else 32
    read = summary(torch.rand(3, *shape), side)
    assert read.shape[0] == 3
    assert 1 < read.shape[1] <= 2048


def test_a_linear_client_is_read_by_the_closed_form():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(400, 3, 4, 4, generator=generator)
    mixed = images.flatten(1) @ torch.randn(48, 48, generator=generator)
    found = pairs.closed_form(mixed[:390], images[:390], mixed[390:])
    assert float((found - images[390:]).abs().mean()) < 0.5 * float((images[390:] - 0.5).abs().mean())


def test_a_decoder_is_the_same_for_the_same_generator():
    images = torch.rand(32, 3, 16, 16)
    features = torch.nn.functional.avg_pool2d(images, 2)

    def taught():
        generator = torch.Generator().manual_seed(0)
        how = {"steps": 3, "width": 8, "generator": generator, "progress": lambda text: None}
        return pairs.decoder(features, images, features[:2], **how)

    assert torch.equal(taught(), taught())


def test_too_few_pairs_are_refused():
    with pytest.raises(DpbenchError, match="3 pairs of features and images teach nothing"):
        pairs.closed_form(torch.rand(3, 4), torch.rand(3, 3, 16, 16), torch.rand(1, 4))


def test_networks_without_cuts_and_unknown_ones_are_refused(tmp_path):
    with pytest.raises(DpbenchError, match="unknown backbone 'resnet10x'"):
        advise("resnet10x", images=64)
    (tmp_path / "my_net.py").write_text(NET)
    with pytest.raises(DpbenchError, match="cannot be cut"):
        advise(f"{tmp_path}/my_net.py:build", images=64, split_points=["unused"], device="cpu")


def test_slow_networks_get_fewer_images(monkeypatch):
    ticks = iter([0.0, 16.0])
    monkeypatch.setattr(advising.time, "perf_counter", lambda: next(ticks))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    assert advising._affordable(model, torch.rand(16, 3, 4, 4), 4, 1000) == advising.FEWEST_IMAGES
    assert not math.isnan(advising.SECONDS)
