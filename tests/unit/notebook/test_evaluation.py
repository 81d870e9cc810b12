"""`dpbench.evaluate` and `dpbench.run` with what one holds: classes, instances, modules, images."""

import numpy as np
import pytest
import torch
from tiny_suite import SUITE
from torch import nn

import dpbench as package
from dpbench.errors import DpbenchError
from dpbench.notebook.given_images import given_images
from dpbench.notebook.held import holding
from dpbench.plugins import registry
from dpbench.plugins.image_sets import load_parts
from dpbench.plugins.sources import HELD, source_of
from dpbench.records.store import CELLS


class Scaled(package.FeatureTransform):
    """Features times a factor."""

    name = "scaled"
    factor: float = 2.0

    def transform(self, features, state, *, generator):
        return self.factor * features


class Grey(package.Attack):
    """Nothing but grey."""

    name, needs = "grey", "query"

    def reconstruct(self, seen, *, generator):
        return torch.full((len(seen.released), *seen.image_shape), 0.5)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, images):
        return self.head(self.stem(images).relu().mean((2, 3)))


def pictures(count=200, size=16):
    random = np.random.default_rng(0)
    labels = np.arange(count) % 2
    pixels = random.integers(0, 128, (count, 3, size, size)) + 128 * labels[:, None, None, None]
    return torch.from_numpy(pixels).float() / 255, torch.from_numpy(labels)


@pytest.fixture(scope="module")
def results(tmp_path_factory, cache):
    torch.manual_seed(0)
    network = Net()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPBENCH_CACHE", str(cache))
        found = package.evaluate(
            [Scaled(factor=3.0), Scaled(factor=4.0)],
            backbone=network,
            split="stem",
            images=pictures(),
            attacks=[Grey],
            victims=4,
            output=tmp_path_factory.mktemp("held") / "run",
            device="cpu",
        )
    return found, network


def test_module_instances_and_images_in_memory_are_measured(results):
    found, _ = results
    assert set(found.board["status"]) == {"ok"}, found.board["error"]
    assert sorted(found.board["defense_args"].unique()) == ["", "factor=3.0", "factor=4.0"]
    assert {"grey", "mean-image", "worst-case", "floor"} == set(found.board["attack"])
    assert found.board["backbone"].str.startswith("net_").all()
    assert len(found.figures) == 4 * len(found.records)


def test_a_module_keeps_its_weights(results):
    found, network = results
    parts = {record.cell.backbone.name for record in found.records}
    assert len(parts) == 1
    images, labels = pictures()
    order = np.random.default_rng(0).permutation(len(images))[int(0.8 * len(images)) :]
    with torch.no_grad():
        hits = network.eval()(images[order]).argmax(1) == labels[order]
    undefended = found.board[(found.board["defense"] == "none") & (found.board["attack"] == "worst-case")]
    assert undefended["accuracy"].iloc[0] == pytest.approx(hits.float().mean().item(), abs=1e-4)


def test_results_are_shown_with_what_strangers_wrote_as_text(results, capsys, tmp_path):
    found, _ = results
    found.show()
    assert "scaled" in capsys.readouterr().out
    assert found.plot().width > 100
    assert found.plot("tradeoff", tmp_path / "x.svg").is_file()
    with pytest.raises(DpbenchError, match="unknown plot"):
        found.plot("pie")
    board = found.board.copy()
    found.__dict__["board"] = board.assign(defense="<script>alert(1)</script>")
    page = found._repr_html_()
    found.__dict__["board"] = board
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_nothing_stays_known_and_nothing_of_before_is_taken(results):
    assert "scaled" not in registry.defenses()
    assert "grey" not in registry.attacks()
    assert not HELD
    sources = set()
    for _ in range(2):
        with holding([Scaled], [Grey]):
            sources.add(source_of(Scaled))
    assert len(sources) == 2


def test_dpbench_run_takes_what_one_holds(tmp_path, capsys):
    (tmp_path / "tiny.toml").write_text(SUITE)
    given = {"output": tmp_path / "run", "device": "cpu", "attack": [Grey]}
    board = package.run(str(tmp_path / "tiny.toml"), defense=[Scaled], progress=True, **given)
    assert {"none", "scaled"} == set(board["defense"])
    assert "grey" in set(board["attack"])
    assert "cell" in capsys.readouterr().err
    assert all(record.apart == [] for record in CELLS.all(tmp_path / "run"))
    with pytest.raises(DpbenchError, match="cannot run in another process"):
        package.run(str(tmp_path / "tiny.toml"), audit=True, **given)
    with pytest.raises(DpbenchError, match="run in this process"):
        package.run(str(tmp_path / "tiny.toml"), workers=2, **given)


def test_verify_says_that_what_one_holds_ran_without_a_border(results, dpbench):
    outcome = dpbench("verify", results[0].run)
    assert outcome.status == 1
    assert "its defense 'scaled' is none of dpbench's and ran where figures are made" in outcome.out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"defense": Grey}, "Grey is no Defense"),
        ({"defense": nn.ReLU()}, "ReLU is no Defense"),
        ({"attacks": []}, "attacks is empty"),
        ({"attacks": ["mean-image"]}, "floors alone"),
        ({"backbone": Net(), "split": "middle"}, "split 'middle' is no module of Net"),
        ({"backbone": nn.Sequential(nn.Conv2d(3, 2, 1)), "split": "0"}, "has no linear layer"),
        ({"images": 3}, "images are int, which cannot be read"),
        ({"images": (torch.zeros(9, 3, 16, 16) - 1, torch.arange(9))}, "values outside"),
        ({"images": (torch.zeros(9, 3, 16, 16), torch.zeros(9))}, "of one class"),
        ({"images": (torch.zeros(9, 1, 16, 16), torch.arange(9))}, "expected (3, S, S)"),
        ({"images": pictures(20), "victims": 16}, "fewer than victims=16"),
        ({"images": "nowhere/at/all"}, "nowhere"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line(tmp_path, changes, said):
    given = {"defense": Scaled, "images": pictures(), "attacks": [Grey], "victims": 4, **changes}
    with pytest.raises(DpbenchError) as refused:
        package.evaluate(given.pop("defense"), output=tmp_path / "run", device="cpu", **given)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_images_of_pytorch_and_folders_are_divided(tmp_path, image_folder):
    from PIL import Image

    images, labels = pictures(40)
    items = [
        (Image.fromarray((255 * image).byte().permute(1, 2, 0).numpy()), int(label))
        for image, label in zip(images, labels, strict=True)
    ]
    with given_images(items, victims=4, image_size=None) as spec:
        assert (spec.private, spec.auxiliary, spec.test, spec.image_size) == (20, 12, 8, 16)
        parts = load_parts(spec, cache=tmp_path, progress=lambda text: None)
        whole = torch.cat([torch.as_tensor(part.images[:]) for part in (parts.private, parts.auxiliary, parts.test)])
        assert len(whole.flatten(1).unique(dim=0)) == 40
        sums = [sorted(one.flatten(1).sum(1).tolist()) for one in (whole.float() / whole.max(), images)]
        assert sums[0] == pytest.approx(sums[1], rel=0.01)
    with given_images(image_folder, victims=4, image_size=16) as spec:
        assert (spec.private, spec.auxiliary, spec.test) == (250, 150, 80)  # its images to test on stay those
