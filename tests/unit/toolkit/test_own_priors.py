"""A generator of one's own: what fits is searched, what does not is one line before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dpbench_attacks.gan_cma import GradientFreeGanInversion
from dpbench_attacks.gan_progressive import ProgressiveGanInversion, within_l1_ball
from safetensors.torch import save_file
from tiny_observation import observed
from torch import Tensor

from dpbench.contract.attack import Attack, Observation
from dpbench.contract.defense import ProtectedModel
from dpbench.errors import DpbenchError
from dpbench.machine.randomness import derive_generator
from dpbench.plugins.apart import remote
from dpbench.plugins.configuring import configure
from dpbench.plugins.sources import files_of
from dpbench.suite.preflight import assert_plugins
from dpbench.testing.tiny import CPU, smooth

PRIOR = """
import torch
from torch import nn
from torch.nn import functional

class Painter(nn.Module):
    latent = 48

    def __init__(self, size, bad):
        super().__init__()
        self.size, self.bad = size, bad
        self.mix = nn.Linear(48, 48)

    def forward(self, z):
        images = functional.interpolate(self.mix(z).unflatten(1, (3, 4, 4)), self.size, mode="bicubic")
        return images.sigmoid() + self.bad

def build(image_shape):
    return Painter(image_shape[1:], 0.0)

def wide(image_shape):
    return Painter((8, 8), 0.0)

def wild():
    return Painter((16, 16), float("nan"))

def bright():
    return Painter((16, 16), 3.0)

def blank():
    return nn.Identity()

def broken():
    raise RuntimeError("no such luck")

def marks():
    torch.marked = True
    return build((3, 16, 16))

def blocks():
    mixed = nn.Sequential(nn.Linear(48, 48), nn.Unflatten(1, (3, 4, 4)), nn.Upsample((16, 16)), nn.Sigmoid())
    whole = nn.Sequential()
    whole.blocks, whole.latent = mixed, 48
    return whole
"""

QUICK: dict[type[Attack], dict[str, Any]] = {
    ProgressiveGanInversion: {"pool": 32, "steps": 30, "encoder_steps": 4},
    GradientFreeGanInversion: {"pool": 32, "generations": 30},
}


@pytest.fixture
def prior(tmp_path: Path) -> Path:
    path = tmp_path / "my_gan.py"
    path.write_text(PRIOR)
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "my_gan.safetensors"
    matrix = torch.empty(48, 48)
    torch.nn.init.orthogonal_(matrix, generator=derive_generator(CPU, "mix"))
    save_file({"mix.weight": matrix, "mix.bias": torch.zeros(48)}, path)
    return path


def seen() -> tuple[Observation, Tensor]:
    victims = smooth(4, seed="victims")
    return observed(ProtectedModel, victims, smooth(96, seed="auxiliary")), victims


def reconstruct(attack: Attack) -> tuple[Tensor, Tensor, Observation]:
    observation, victims = seen()
    return attack.reconstruct(observation, generator=derive_generator(CPU, "attack")), victims, observation


@pytest.mark.parametrize("cls", list(QUICK))
@pytest.mark.parametrize("function", ["build", "blocks"])
def test_a_generator_of_ones_own_is_searched(cls: type[Attack], function: str, prior: Path, weights: Path) -> None:
    given: dict[str, Any] = {"prior": f"{prior}:{function}"}
    if function == "build":
        given["checkpoint"] = str(weights)
    images, victims, observation = reconstruct(configure(cls, QUICK[cls] | given))
    mean = smooth(96, seed="auxiliary").mean(0, keepdim=True)
    assert (images - victims).square().mean() < 0.5 * (mean - victims).square().mean()
    assert len(observation.notes["curves"]["feature_distance"]) <= 50  # type: ignore[index]


def test_weights_that_no_checkpoint_gives_are_drawn_the_same_each_time(prior: Path) -> None:
    attack = configure(GradientFreeGanInversion, {**QUICK[GradientFreeGanInversion], "prior": f"{prior}:blocks"})
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(reconstruct(attack)[0])
    assert torch.equal(*found)


def test_its_code_runs_apart_and_its_content_counts(prior: Path, weights: Path) -> None:
    attack = configure(ProgressiveGanInversion, {"prior": f"{prior}:build", "checkpoint": str(weights)})
    assert remote.crosses(attack, audit=False)
    assert not remote.crosses(configure(ProgressiveGanInversion, {"checkpoint": str(weights)}), audit=False)
    assert set(files_of(attack)) == {"prior", "checkpoint"}
    assert attack.model_dump(mode="json")["function"] == "build"
    assert configure(ProgressiveGanInversion, json.loads(attack.model_dump_json())) == attack


def test_none_of_its_code_runs_here(prior: Path) -> None:
    observation, victims = seen()
    attack = configure(GradientFreeGanInversion, {"pool": 8, "generations": 1, "prior": f"{prior}:marks"})
    images = remote.reconstruct(attack, observation, derive_generator(CPU, "attack"))
    assert images.shape == victims.shape
    assert not hasattr(torch, "marked")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("wide", r"paints \(2, 3, 8, 8\) from two z; expected images \(2, 3, 16, 16\)"),
        ("wild", "values that are not finite"),
        ("bright", r"values from 3.* expected \[0, 1\]"),
        ("blank", "has latent = None"),
        ("broken", "no such luck"),
        ("biuld", "did you mean 'build'"),
    ],
)
def test_one_that_does_not_fit_is_a_line(function: str, message: str, prior: Path) -> None:
    for cls in QUICK:
        with pytest.raises(DpbenchError, match=message) as raised:
            reconstruct(configure(cls, {"prior": f"{prior}:{function}"}))
        assert "\n" not in str(raised.value)


def test_one_that_does_not_fit_is_refused_when_a_run_is_planned_and_none_of_its_code_runs_here(prior: Path) -> None:
    wide, right = (
        configure(GradientFreeGanInversion, {"prior": f"{prior}:{function}"}) for function in ("wide", "marks")
    )
    with pytest.raises(DpbenchError, match=r"gan-cma: .*paints \(2, 3, 8, 8\) from two z; expected images") as raised:
        assert_plugins([(wide, 16)])
    assert "\n" not in str(raised.value)
    assert_plugins([(right, 16)])
    assert not hasattr(torch, "marked")


class Harmful:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit",)


def test_a_checkpoint_with_code_is_refused_when_a_run_is_planned(prior: Path, tmp_path: Path, weights: Path) -> None:
    path = tmp_path / "harmful.pth"
    torch.save({"mix.weight": torch.zeros(48, 48), "more": Harmful()}, path)
    with pytest.raises(DpbenchError, match="could run code"):
        configure(ProgressiveGanInversion, {"prior": f"{prior}:build", "checkpoint": str(path)}).assert_at_hand()
    with pytest.raises(DpbenchError, match="without `prior`"):
        configure(ProgressiveGanInversion, {"checkpoint": str(weights)}).assert_at_hand()
    save_file({"mix.weight": torch.zeros(2, 2)}, path)
    other = configure(ProgressiveGanInversion, {"prior": f"{prior}:build", "checkpoint": str(path)})
    with pytest.raises(DpbenchError, match=r"does not fit the prior my_gan\.py:build: missing: mix\.bias"):
        reconstruct(other)


def test_a_prior_with_a_neighbour_is_refused(prior: Path) -> None:
    (prior.parent / "more.py").write_text("")
    prior.write_text("import more\n" + PRIOR)
    with pytest.raises(DpbenchError, match=r"uses more\.py beside it"):
        reconstruct(configure(ProgressiveGanInversion, {"prior": f"{prior}:build"}))


def test_the_nearest_point_of_an_l1_ball() -> None:
    shift = torch.randn(5, 3, 4, generator=derive_generator(CPU, "shift"))
    inside = within_l1_ball(shift, 100.0)
    torch.testing.assert_close(inside, shift)
    near = within_l1_ball(shift, 0.3)
    torch.testing.assert_close(near.abs().mean((1, 2)), torch.full((5,), 0.3))
    rows, found = shift.flatten(1), near.flatten(1)
    for _ in range(20):  # no other point of the ball is nearer
        other = within_l1_ball(found + 0.1 * torch.randn_like(found), 0.3)
        assert ((other - rows).norm(dim=1) >= (found - rows).norm(dim=1) - 1e-6).all()
