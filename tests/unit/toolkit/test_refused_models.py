"""What a user hands an attack that cannot be used: refused in one line when a run is planned, and none of it runs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dpbench_attacks._diffusion_models import small_unet
from dpbench_attacks.diffusion import GuidedDiffusion
from dpbench_attacks.fuse import Fusion
from dpbench_attacks.gan_cma import GradientFreeGanInversion
from dpbench_attacks.gan_progressive import ProgressiveGanInversion
from dpbench_attacks.rmle import RegularisedMaximumLikelihood
from dpbench_attacks.unsplit import UnSplit
from safetensors.torch import load_file, save_file

from dpbench.contract.attack import Attack
from dpbench.errors import DpbenchError
from dpbench.plugins.configuring import configure

SHAPE = (3, 16, 16)

PRIOR = """
import torch
from torch import nn

class Painter(nn.Module):
    latent = 4

    def __init__(self, how, shape=(3, 16, 16)):
        super().__init__()
        self.how, self.shape = how, shape
        self.mix = nn.Linear(4, torch.Size(shape).numel())

    def forward(self, z):
        images = self.mix(z).sigmoid().unflatten(1, self.shape)
        return self.how(images)

def stops(images):
    raise SystemExit("enough\\nof this")

def one(): return Painter(lambda images: images[:1])
def grey(): return Painter(lambda images: images, (1, 16, 16))
def pair(): return Painter(lambda images: (images, images))
def stopping(): return Painter(stops)
def halves(): return Painter(lambda images: images.half())
def bytes(): return Painter(lambda images: (images * 255).byte())
def detached(): return Painter(lambda images: images.detach())
def signed(): return Painter(lambda images: images * 2 - 1)
def fine(): return Painter(lambda images: images)
def told(size): return Painter(lambda images: images)
def counted():
    made = fine()
    made.latent = "four"
    return made
value = 3
"""


def planned(attack: Attack) -> None:
    """What is asked of an attack when a run is planned; here in this process, whose code it is."""
    attack.assert_at_hand()
    attack.assert_fits(SHAPE)


def refused(attack: Attack, message: str) -> None:
    with pytest.raises(DpbenchError, match=message) as raised:
        planned(attack)
    assert "\n" not in str(raised.value)


@pytest.fixture
def prior(tmp_path: Path) -> Path:
    path = tmp_path / "painter.py"
    path.write_text(PRIOR)
    return path


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("one", r"paints \(1, 3, 16, 16\) from two z; expected images \(2, 3, 16, 16\)"),
        ("grey", r"paints \(2, 1, 16, 16\)"),
        ("pair", "paints tuple"),
        ("stopping", "fails on z .*SystemExit: enough of this"),
        ("halves", r"images of float16; expected float32: give images\.float\(\)"),
        ("bytes", "images of uint8"),
        ("detached", "no gradient through to z, and gan-progressive follows gradients"),
        ("signed", r"values from -.* expected \[0, 1\]: rescale"),
        ("told", "cannot be made: TypeError.*'size'"),
        ("counted", "latent = 'four'; expected a whole number"),
        ("value", "unknown function in painter.py 'value'"),
    ],
)
def test_a_prior(function: str, message: str, prior: Path) -> None:
    refused(configure(ProgressiveGanInversion, {"prior": f"{prior}:{function}"}), message)


def test_who_follows_no_gradient_needs_none(prior: Path) -> None:
    configure(GradientFreeGanInversion, {"prior": f"{prior}:detached"}).assert_fits(SHAPE)


def test_two_generators(prior: Path) -> None:
    refused(configure(GradientFreeGanInversion, {"prior": f"{prior}:fine", "faces": True}), "are two generators")


def test_a_function_without_its_file_or_beside_another(prior: Path) -> None:
    refused(configure(GradientFreeGanInversion, {"function": "fine"}), "without `prior`")
    with pytest.raises(DpbenchError, match="name 'fine' and 'one'; leave one out"):
        configure(GradientFreeGanInversion, {"prior": f"{prior}:fine", "function": "one"})


def test_a_checkpoint_of_no_numbers_is_refused(prior: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"mix.weight": torch.full((768, 4), float("nan")), "mix.bias": torch.zeros(768)}, path)
    attack = configure(ProgressiveGanInversion, {"prior": f"{prior}:fine", "checkpoint": str(path)})
    refused(attack, "not finite; check its weights")


WEIGHTS, UNET, SCHEDULER = (
    "unet/diffusion_pytorch_model.safetensors",
    "unet/config.json",
    "scheduler/scheduler_config.json",
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import DDIMScheduler

    folder = tmp_path_factory.mktemp("pipeline")
    network: Any = small_unet(SHAPE, 8)
    network.save_pretrained(folder / "unet")
    DDIMScheduler().save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text("{}")
    return folder


def told(file: str, **values: object) -> Callable[[Path], None]:
    """Changes a pipeline's configuration."""

    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def cut(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:4000])


class Harmful:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit",)


def disguise(folder: Path) -> None:
    torch.save({"conv_in.weight": Harmful()}, folder / WEIGHTS)


def spoil(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    save_file({name: torch.full_like(value, float("nan")) for name, value in state.items()}, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (told(UNET, sample_size=32), r"takes 3 channels and paints 3, of 32 pixels; expected 3 and 3, of \[16, 16\]"),
        (told(UNET, sample_size=None), "of None pixels"),
        (told(UNET, in_channels=1), "takes 1 channels"),
        (told(UNET, block_out_channels="many"), "cannot be made"),
        (told(UNET, layers_per_block=2), "does not fit .*missing"),
        (told(UNET, _class_name=["unet.py", "Mine"]), "only models of pixels"),
        (told(SCHEDULER, beta_schedule="odd"), "cannot be made"),
        (told(SCHEDULER, prediction_type="odd"), "prediction_type = 'odd'; expected one of epsilon"),
        (told(SCHEDULER, beta_end=-0.5), "no schedule in which noise grows"),
        (cut, "cut short, damaged"),
        (disguise, "could run code"),
        (spoil, "not finite"),
    ],
)
def test_a_pipeline(change: Callable[[Path], None], message: str, saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(saved, folder)
    change(folder)
    refused(configure(GuidedDiffusion, {"pipeline": str(folder)}), message)


@pytest.mark.parametrize("file", [WEIGHTS, UNET, SCHEDULER])
def test_a_pipeline_that_lacks_a_file(file: str, saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(saved, folder)
    (folder / file).unlink()
    with pytest.raises(DpbenchError, match=f"lacks {file}; expected what"):
        configure(GuidedDiffusion, {"pipeline": str(folder)})


def test_a_pipeline_that_fits_is_taken(saved: Path) -> None:
    planned(configure(GuidedDiffusion, {"pipeline": str(saved)}))


@pytest.mark.parametrize("broken", [False, True])
def test_without_diffusers(broken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if broken:  # it is there, and what it needs is not
        (tmp_path / "diffusers.py").write_text("raise ImportError('no accelerate here')")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "diffusers", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "diffusers", None)
    refused(GuidedDiffusion(), "pip install diffusers")


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("resnet10t:", "expected a timm model and its split point"),
        ("resnet10x", "unknown backbone 'resnet10x'; did you mean"),
        (":layer1", "expected a timm model and its split point"),
        ("mine.py:build:layer1", "expected a timm model and its split point"),
        ("resnet10x:layer1", "unknown backbone 'resnet10x'; did you mean"),
        ("resnet10t:layer9", "split point 'layer9' is not in resnet10t"),
    ],
)
def test_an_architecture(architecture: str, message: str) -> None:
    refused(UnSplit(architecture=architecture), message)


@pytest.mark.parametrize("cls", [Fusion, RegularisedMaximumLikelihood])
@pytest.mark.parametrize("given", [{"nearness": -1}, {"total_variation": [0.1, -0.1]}, {"nearness": float("inf")}])
def test_a_regulariser_that_is_negative_or_endless(cls: type[Attack], given: dict[str, Any]) -> None:
    with pytest.raises(DpbenchError, match="does not fit"):
        configure(cls, given)
