"""One entity exports, another imports: on the command line, with what can go wrong between them."""

import math

import command_line
import pytest
import safetensors.torch
import timm
import torch

from dpbench.exchange.feature_file import read_features

SUITE = """
name = "tiny"
[dataset]
image_size = 32
private = 96
auxiliary = 20
test = 20
[[backbones]]
name = "resnet10t"
weights = "fit"
epochs = 1
split_points = ["layer1", "layer2"]
[[defenses]]
name = "none"
[[defenses]]
name = "gaussian"
std = [0.5, 2.0]
[[attacks]]
name = "mean-image"
"""
NOISY = "resnet10t layer1 | gaussian std=0.5 | seed 0"


@pytest.fixture
def suite(tmp_path):
    """Writes the suite, one text of it replaced by another."""

    def write(old="", new="", name="tiny"):
        path = tmp_path / f"{name}.toml"
        path.write_text(SUITE.replace(old, new))
        return path

    return write


@pytest.fixture
def export(suite, dpbench, tmp_path):
    """Exports from the suite; returns the outcome and the path."""

    def call(only, *more, name="shared"):
        path = tmp_path / f"{name}.safetensors"
        arguments = ["share", "export", suite(), "--only", only, "--output", path, "--device", "cpu", *more]
        return dpbench(*arguments), path

    return call


def refused(outcome, *words):
    command_line.refused(outcome, *words)
    assert outcome.out == ""


def test_export_and_import(export, suite, dpbench):
    outcome, path = export("layer1 | none")
    assert outcome.status == 0, outcome
    assert "96 images, features (64, 8, 8) each, behind none; resnet10t cut at layer1" in outcome.out
    assert "not defended" in outcome.out
    undefended = read_features(path)
    table = dpbench("share", "import", path, suite(), "--only", "layer1", "--device", "cpu")
    assert table.status == 0, table
    for word in ("resnet10t", "layer1", "none v1", "96", undefended.header.weights_hash, "(chance 10.0%)", "circle"):
        assert word in table.out

    outcome, noisy = export(NOISY, name="noisy")
    assert outcome.status == 0, outcome
    assert "not defended" not in outcome.out
    shared = read_features(noisy)
    assert torch.equal(shared.labels, undefended.labels)
    # the noise that the defense promises, on the same images in the same order
    noise = shared.features - undefended.features
    assert float(noise.std() / undefended.features.std()) == pytest.approx(0.5, rel=0.02)
    assert float(noise.mean() / noise.std()) == pytest.approx(0, abs=5 / math.sqrt(noise.numel()))


def test_a_shared_weights_file_lets_others_import(export, suite, dpbench, tmp_path):
    weights = tmp_path / "public.pth"
    torch.save(timm.create_model("resnet10t", num_classes=10).state_dict(), weights)
    outcome, path = export(NOISY, "--weights", weights, name="public")
    assert outcome.status == 0, outcome
    other = suite("private = 96", "private = 60\nseed = 5", name="other")
    arguments = ["share", "import", path, other, "--only", "layer1", "--device", "cpu"]
    assert dpbench(*arguments, "--weights", weights).status == 0
    refused(dpbench(*arguments), "weights hash", "one and the same file of weights")


def test_the_noise_is_the_same_with_a_release_seed_alone(export):
    seeded = [export(NOISY, "--release-seed", "3", name=f"seeded{i}") for i in range(2)]
    assert seeded[0][1].read_bytes() == seeded[1][1].read_bytes()
    assert "whoever learns the release seed can subtract the noise" in seeded[0][0].out
    other, fresh, again = (
        read_features(export(NOISY, *more, name=name)[1]).features
        for name, more in (("other", ["--release-seed", "4"]), ("fresh", []), ("again", []))
    )
    first = read_features(seeded[0][1]).features
    pairs = [(first, other), (first, fresh), (fresh, again)]
    for one, two in pairs:
        assert not torch.isclose(one, two).float().mean() > 0.01


def test_the_choice_of_a_setting(export, suite, dpbench, tmp_path):
    for only, words in {
        "gaussian": ["matches 4 settings", "expected exactly one", NOISY, "layer2 | gaussian std=2.0 | seed 0"],
        "dpm": ["matches 0 settings", "resnet10t layer1 | none | seed 0"],
    }.items():
        outcome, path = export(only)
        refused(outcome, *words)
        assert not path.exists()
    refused(dpbench("share", "export", suite(), "--output", tmp_path / "new" / "x"), "without --only there are 6")
    assert not (tmp_path / "new").exists()


def test_nothing_is_overwritten(export):
    _, path = export(NOISY)
    before = path.read_bytes()
    refused(export("layer2 | none")[0], "is there already and is never overwritten")
    assert path.read_bytes() == before


def test_files_that_do_not_fit_are_refused(export, suite, dpbench, tmp_path):
    _, path = export("layer1 | gaussian std=0.5")
    before = sorted(tmp_path.rglob("*"))
    wrong = {
        ("--only", "layer2"): ["split point is 'layer1', expected 'layer2'"],
        ("--only", "layer"): ["matches 2 settings", "resnet10t layer1 | none | seed 0"],
        ("--only", "layer1", "--seed", "1"): ["weights hash", "one and the same file of weights"],
        ("--only", "layer1", "--data", "spectra"): [
            "class names is 'bar' at 0, expected",
            "name the class folders alike",
        ],
    }
    for arguments, words in wrong.items():
        refused(dpbench("share", "import", path, suite(), "--device", "cpu", *arguments), *words)
    other = suite('"resnet10t"', '"resnet18"')
    refused(dpbench("share", "import", path, other, "--only", "layer1"), "backbone is 'resnet10t', expected 'resnet18'")
    other = suite("image_size = 32", "image_size = 16")
    refused(dpbench("share", "import", path, other, "--only", "layer1"), "image size is 32, expected 16")
    assert sorted(tmp_path.rglob("*")) == before


def test_damaged_files_are_refused(export, suite, dpbench, tmp_path):
    _, path = export("layer1 | none")
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    refused(dpbench("share", "import", path, suite(), "--only", "layer1"), "cut short", "send it again")
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(dpbench("share", "import", path, suite(), "--only", "layer1"), "altered or damaged")
    safetensors.torch.save_file({"weight": torch.zeros(2)}, path)
    refused(dpbench("share", "import", path, suite(), "--only", "layer1"), "none of shared features")
    refused(dpbench("share", "import", tmp_path / "none", suite(), "--only", "layer1"), "there is no file")


def test_help_shows_examples(dpbench):
    for verb in ("export", "import"):
        outcome = dpbench("share", verb, "--help")
        assert outcome.status == 0
        assert f"dpbench share {verb}" in outcome.out
