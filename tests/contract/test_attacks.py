"""One contract for every registered attack, and the fallbacks of the white-box attacks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import piq
import pytest
import torch
from dpbench_attacks.decoder import Decoder
from dpbench_attacks.gan import Discriminator, GanInversion
from dpbench_attacks.rmle import RegularisedMaximumLikelihood
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from dpbench.errors import DpbenchError
from dpbench.inversion import study_client
from dpbench.randomness import derive_generator
from dpbench.registry import attacks, configure
from dpbench.types import LabelledImages, Observation, ProtectedModel, SplitModel

CPU = torch.device("cpu")
SIDE = 16
VICTIMS = 6

TINY: dict[str, dict[str, Any]] = {
    "decoder": {"epochs": 12, "width": 32, "blocks": 1, "batch_size": 32},
    "rmle": {"steps": 60},
    "gan": {"training_steps": 20, "width": 8, "pool": 64, "restarts": 2, "search_steps": 3, "refine_steps": 60},
}
"""Parameters that make an attack quick; an attack that is not here runs with its defaults."""


def smooth_images(count: int, *, seed: str, height: int = SIDE, width: int = SIDE) -> Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=derive_generator(CPU, seed))
    return functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


class ConvHead(nn.Module):
    """(N,3,H,W) -> (N,12,H/2,W/2), invertible enough that every attack should succeed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 2, stride=2)
        nn.init.orthogonal_(self.conv.weight.data.view(12, 12), generator=derive_generator(CPU, "head"))
        nn.init.zeros_(self.conv.bias)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.conv(images * 2 - 1)
        return functional.leaky_relu(features, 0.5)


class TokenHead(ConvHead):
    """(N,3,H,W) -> (N, prefix + H/2 * W/2, 12)."""

    def __init__(self, prefix: int = 1, drop: int = 0) -> None:
        super().__init__()
        self.prefix, self.drop = prefix, drop

    def forward(self, images: Tensor) -> Tensor:
        tokens = super().forward(images).flatten(2).transpose(1, 2)
        prefix = tokens.mean(1, keepdim=True).expand(-1, self.prefix, -1)
        return torch.cat([prefix, tokens[:, self.drop :]], 1)


class FlatHead(ConvHead):
    """(N,3,H,W) -> (N,D)."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).flatten(1)


class NoisyModel(ProtectedModel):
    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return features + 0.3 * torch.randn(features.shape, generator=generator)


class MaskedModel(ProtectedModel):
    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return features * (torch.rand(features.shape, generator=generator) < 0.5) * 2


class QuantisedModel(ProtectedModel):
    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return (features * 8).round() / 8


class DetachedModel(ProtectedModel):
    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return features.detach().clone()


HEADS: dict[str, Callable[[], nn.Module]] = {
    "conv": ConvHead,
    "tokens": TokenHead,
    "tokens without a grid": lambda: TokenHead(prefix=0, drop=3),
    "flat": FlatHead,
}


def remember(
    name: str,
    train: Callable[[torch.Generator], dict[str, Tensor]],
    depends_on: Literal["auxiliary", "query"],
) -> dict[str, Tensor]:
    return train(derive_generator(CPU, name, depends_on))


def observe(
    model: type[ProtectedModel] = ProtectedModel,
    head: nn.Module | None = None,
    *,
    height: int = SIDE,
    width: int = SIDE,
) -> tuple[Observation, Tensor]:
    """An observation that grants everything, and the victims it is about."""
    shape = (3, height, width)
    split = SplitModel(head or ConvHead(), nn.Identity(), split_point="head", image_shape=shape, classes=2)
    client = model(split).eval().requires_grad_(False)
    victims = smooth_images(VICTIMS, seed="victims", height=height, width=width)
    auxiliary = smooth_images(320, seed="auxiliary", height=height, width=width)
    draws = derive_generator(CPU, "queries")

    @torch.no_grad()
    def query(images: Tensor) -> Tensor:
        return client.release(images, generator=draws)

    seen = Observation(
        released=query(victims),
        image_shape=shape,
        auxiliary=LabelledImages(auxiliary, torch.zeros(len(auxiliary), dtype=torch.int64)),
        query=query,
        client=client,
        remember=remember,
    )
    return seen, victims


def run(name: str, seen: Observation, seed: str = "attack", **arguments: object) -> Tensor:
    attack = configure(attacks()[name], TINY.get(name, {}) | arguments)
    return attack.reconstruct(seen, generator=derive_generator(CPU, seed))


def psnr_db(images: Tensor, victims: Tensor) -> float:
    return float(piq.psnr(images, victims))


def check_images(images: Tensor, seen: Observation) -> None:
    assert images.shape == (len(seen.released), *seen.image_shape)
    assert images.dtype == torch.float32
    assert images.isfinite().all()
    assert images.min() >= 0
    assert images.max() <= 1


@pytest.fixture(scope="module", params=sorted(attacks()))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("layout", HEADS)
def test_images_in_range_for_every_layout_of_features(name: str, layout: str) -> None:
    seen, _ = observe(head=HEADS[layout]())
    few = {key: 2 for key in TINY.get(name, {}) if key in ("epochs", "steps", "training_steps", "refine_steps")}
    check_images(run(name, seen, **few), seen)


def test_images_that_are_not_square(name: str) -> None:
    seen, _ = observe(height=18, width=28)
    few = {key: 2 for key in TINY.get(name, {}) if key in ("epochs", "steps", "training_steps", "refine_steps")}
    check_images(run(name, seen, **few), seen)


def test_reconstructs_and_does_so_from_the_features(name: str) -> None:
    seen, victims = observe()
    images = run(name, seen)
    check_images(images, seen)
    assert torch.equal(images, run(name, seen)), "the same seed must give the same images"
    if attacks()[name].floor:
        return
    floor = psnr_db(run("mean-image", seen), victims)
    assert psnr_db(images, victims) > floor + 3

    others = dataclasses.replace(seen, released=seen.released.roll(1, 0))
    assert psnr_db(run(name, others), victims) < floor + 0.5


class Silent(ProtectedModel):
    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return torch.zeros_like(features)


@pytest.mark.parametrize(("model", "converged"), [(ProtectedModel, True), (Silent, False)])
def test_a_decoder_knows_when_it_learned_nothing(model: type[ProtectedModel], converged: bool) -> None:
    seen, _ = observe(model)
    run("decoder", seen)
    assert seen.notes["converged"] is converged


def test_refuses_to_run_without_its_needs(name: str) -> None:
    seen, _ = observe()
    needs = attacks()[name].needs
    if needs == "nothing":
        nothing = dataclasses.replace(seen, query=None, client=None)
        check_images(run(name, nothing), nothing)
        return
    denied = dataclasses.replace(seen, client=None) if needs == "weights" else dataclasses.replace(seen, query=None)
    with pytest.raises(DpbenchError, match="threat model"):
        run(name, denied)


def test_global_random_state_is_not_what_decides(name: str) -> None:
    seen, _ = observe()
    few = {key: 2 for key in TINY.get(name, {}) if key in ("epochs", "steps", "training_steps", "refine_steps")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = run(name, seen, **few)
        torch.manual_seed(2)
        second = run(name, seen, **few)
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["rmle", "gan"])
@pytest.mark.parametrize("model", [QuantisedModel, DetachedModel])
def test_straight_through_where_gradients_are_useless(name: str, model: type[ProtectedModel]) -> None:
    seen, victims = observe(model)
    images = run(name, seen)
    assert "straight-through gradient" in seen.notes["fallbacks"]  # type: ignore[operator]
    assert psnr_db(images, victims) > psnr_db(run("mean-image", seen), victims) + 3


@pytest.mark.parametrize(
    ("model", "fallbacks"),
    [
        (ProtectedModel, []),
        (NoisyModel, ["expectation over 2 draws"]),
        (MaskedModel, ["expectation over 2 draws", "masked entries left out"]),
    ],
)
def test_stochastic_releases_are_noticed_and_met(model: type[ProtectedModel], fallbacks: list[str]) -> None:
    seen, victims = observe(model)
    images = run("rmle", seen)
    assert seen.notes["fallbacks"] == fallbacks
    assert seen.notes["final_feature_loss"] < seen.notes["first_feature_loss"]  # type: ignore[operator]
    assert isinstance(seen.notes["converged"], bool)
    assert psnr_db(images, victims) > psnr_db(run("mean-image", seen), victims) + 2


def test_masked_entries_do_not_count() -> None:
    seen, victims = observe(MaskedModel)
    generator = derive_generator(CPU, "match")
    match = study_client(seen, draws=4, generator=generator)
    everyone = torch.arange(VICTIMS)
    assert match.distance(victims, everyone, generator).max() < 0.05
    assert match.distance(victims.roll(1, 0), everyone, generator).min() > 0.2


@pytest.mark.parametrize("feature_shape", [(12, 8, 8), (65, 12), (61, 12), (40,), (4, 4, 24)])
@pytest.mark.parametrize("size", [(28, 28), (32, 48), (224, 224)])
def test_networks_stay_on_one_device(feature_shape: tuple[int, ...], size: tuple[int, int]) -> None:
    with FakeTensorMode(), torch.device("cuda"):
        decoder = Decoder(width=16, blocks=1).network(feature_shape, (3, *size))
        images = decoder(torch.empty(2, *feature_shape))
        assert images.shape == (2, 3, *size)
        assert images.device.type == "cuda"


@pytest.mark.parametrize("size", [(28, 28), (32, 48), (224, 224)])
def test_gan_networks_stay_on_one_device(size: tuple[int, int]) -> None:
    with FakeTensorMode(), torch.device("cuda"):
        network = GanInversion(width=4).generator_network((3, *size))
        z = torch.empty(2, 64)
        images = network.eval()(z)
        assert images.shape == (2, 3, *size)
        scores = Discriminator(network.side, 4)(network.shrink(images))
        assert scores.shape == (2,)
        assert images.device.type == scores.device.type == "cuda"


def test_many_victims_go_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpbench_attacks.rmle.victims_per_batch", lambda shape: 4)
    seen, _ = observe()
    attack = RegularisedMaximumLikelihood(steps=2)
    check_images(attack.reconstruct(seen, generator=derive_generator(CPU, "attack")), seen)
