"""Where weights come from: timm's if they are on this machine, else fitted; decided without a network."""

import os
import subprocess
import sys
import textwrap

import pytest

from dpbench import weights
from dpbench.errors import DpbenchError
from dpbench.specs import BackboneSpec


def test_without_weights_at_hand_auto_fits(tmp_path, monkeypatch):
    monkeypatch.setattr(weights.huggingface_hub, "try_to_load_from_cache", lambda repo, name: None)
    monkeypatch.setattr(weights.torch.hub, "get_dir", lambda: str(tmp_path))
    assert weights.choose(BackboneSpec(name="resnet10t")) == weights.WeightsSource("fitted")


def test_fit_never_takes_pretrained_weights(monkeypatch):
    monkeypatch.setattr(weights, "_at_hand", lambda config: True)
    assert not weights.choose(BackboneSpec(name="resnet10t", weights="fit")).pretrained
    chosen = weights.choose(BackboneSpec(name="resnet10t"))
    assert (chosen.label, chosen.classes) == ("pretrained:resnet10t.c3_in1k", 1000)


def test_pretrained_is_refused_where_timm_has_none():
    with pytest.raises(DpbenchError, match=r"timm has no pre-trained weights for 'efficientnet_b8'.*weights = .fit."):
        weights.choose(BackboneSpec(name="efficientnet_b8", weights="pretrained"))


OFFLINE = """
    import pathlib, sys, safetensors.torch, timm, torch
    from dpbench import backbones, weights
    from dpbench.specs import BackboneSpec

    torch.manual_seed(1)
    truth = timm.create_model("resnet10t")
    repository = pathlib.Path(sys.argv[1]) / "hub" / "models--timm--resnet10t.c3_in1k"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    safetensors.torch.save_file(truth.state_dict(), snapshot / "model.safetensors")

    spec = BackboneSpec(name="resnet10t")
    source = weights.choose(spec)
    assert source.pretrained, source
    same = backbones.create_backbone(spec, image_size=32, classes=1000, pretrained=True)
    assert torch.equal(same.fc.weight, truth.fc.weight)
    other = backbones.create_backbone(spec, image_size=32, classes=7, pretrained=True)
    assert torch.equal(other.conv1[0].weight, truth.conv1[0].weight)
    assert other.fc.weight.shape == (7, 512)
"""


def test_weights_in_the_cache_of_the_hub_are_found_and_loaded(tmp_path):
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(OFFLINE), str(tmp_path)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
