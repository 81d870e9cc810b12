"""One contract for every registered attack, and the fallbacks of the white-box attacks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import piq
import pytest
import torch
from dpbench_attacks._gan_networks import Discriminator
from dpbench_attacks.decoder import Decoder
from dpbench_attacks.gan import GanInversion
from dpbench_attacks.rmle import RegularisedMaximumLikelihood
from dpbench_defenses._dpm_training import RECONSTRUCTORS
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from dpbench.contract.attack import Observation
from dpbench.contract.defense import ProtectedModel, SplitModel
from dpbench.contract.images import LabelledImages
from dpbench.errors import DpbenchError
from dpbench.machine.randomness import derive_generator
from dpbench.plugins.configuring import configure
from dpbench.plugins.registry import attacks
from dpbench.testing import Check, checks_for
from dpbench.toolkit import release_match, surrogate
from dpbench.toolkit.inverse_network import ResidualBlock
from dpbench.toolkit.inversion import Whitening, pooled, victim_releases
from dpbench.toolkit.release_match import study_client

CPU = torch.device("cpu")
SIDE = 16
VICTIMS = 6

DECODER = {"decoder_steps": 30, "decoder_width": 32, "decoder_blocks": 1, "decoder_batch_size": 32}

TINY: dict[str, dict[str, Any]] = {
    "decoder": {"steps": 96, "width": 32, "blocks": 1, "batch_size": 32},
    "rmle": {"steps": 60, "decoder_steps": 30, "decoder_width": 32, "decoder_blocks": 1, "decoder_batch_size": 32},
    "fuse": {
        **{"steps": 30, "rounds": 1, "held_out": 8, "trials": 2, "finalists": 2, "nearness": (1.0, 100.0)},
        **{"total_variation": (0.01, 1.0), "decoder_steps": 30, "decoder_width": 32, "decoder_blocks": 1},
    },
    "fora": {"steps": 20, "batch_size": 16, **DECODER},
    "reorder": {"steps": 20, "width": 16, "layers": 1, "batch_size": 16, **DECODER},
    "mixture": {"repeats": 16, "stations": 3, "stops": 2, **DECODER},
    "flow": {"steps": 20, "width": 8, "batch_size": 16, **DECODER},
    "dip": {"steps": 120, "width": 8, "trials": 2},
    "gan": {"training_steps": 20, "width": 8, "pool": 64, "restarts": 2, "search_steps": 3, "refine_steps": 60},
    "gan-faces": {"pool": 16, "restarts": 1, "search_steps": 2, "refine_steps": 60},
    "gan-progressive": {"training_steps": 20, "width": 8, "pool": 64, "steps": 12, "encoder_steps": 20},
    "gan-cma": {"training_steps": 20, "width": 8, "pool": 64, "generations": 50, "correction": 0.3},
    "decoder-tokens": {"steps": 40, "width": 32, "layers": 1, "batch_size": 16},
    "diffusion": {"training_steps": 8, "width": 8, "steps": 4, "recurrences": 1, **DECODER},
    "unsplit": {"rounds": 2, "substitutes": 1, "image_steps": 5, "model_steps": 5},
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


class LoudModel(ProtectedModel):
    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return features + 0.8 * torch.randn(features.shape, generator=generator)


class MaskedModel(ProtectedModel):
    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return features * (torch.rand(features.shape, generator=generator) < 0.5) * 2


class QuantisedModel(ProtectedModel):
    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return (features * 8).round() / 8


class DetachedModel(ProtectedModel):
    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return features.detach().clone()


class ShatteredModel(ProtectedModel):
    """Hardly other values, and a gradient that is fifty times what it should be, of either sign."""

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return features + 0.05 * features.std() * torch.sin(1000 * features)


class StarvingModel(ProtectedModel):
    """The right values and direction, a gradient that is a billionth of what it should be."""

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return features.detach() + 1e-9 * (features - features.detach())


class MixedModel(ProtectedModel):
    """An orthogonal mixture of the channels, in which most directions all but vanish."""

    def __init__(self, split: SplitModel) -> None:
        super().__init__(split)
        mixture = torch.empty(12, 12)
        nn.init.orthogonal_(mixture, generator=derive_generator(CPU, "mixture"))
        sizes = torch.tensor([1.0] * 2 + [0.02] * 10)
        self.register_buffer("mixture", mixture @ torch.diag(sizes) @ mixture.T)

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return (features.movedim(1, -1) @ self.mixture).movedim(-1, 1)


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
    *,
    owner: tuple[str, str] | None = None,
) -> dict[str, Tensor]:
    return train(derive_generator(CPU, name, depends_on))


def observe(
    model: type[ProtectedModel] = ProtectedModel,
    head: nn.Module | None = None,
    *,
    height: int = SIDE,
    width: int = SIDE,
    releases: int = 1,
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
        again=tuple(query(victims) for _ in range(releases - 1)),
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


def contract() -> list[Any]:
    """Every rule of every registered attack."""
    checks = [
        (name, check) for name, cls in attacks().items() for check in checks_for(configure(cls, TINY.get(name, {})))
    ]
    return [pytest.param(check, id=f"{name}-{check.__name__}") for name, check in checks]


@pytest.mark.parametrize("check", contract())
def test_contract(check: Check) -> None:
    check()


class Silent(ProtectedModel):
    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return torch.zeros_like(features)


@pytest.mark.parametrize(("model", "converged"), [(ProtectedModel, True), (Silent, False)])
def test_a_decoder_knows_when_it_learned_nothing(model: type[ProtectedModel], converged: bool) -> None:
    seen, _ = observe(model)
    run("decoder", seen)
    assert seen.notes["converged"] is converged
    assert ("retried" in seen.notes) is not converged


def test_a_second_training_counts_where_its_loss_is_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, victims = observe()
    train, rates = Decoder._train, []

    def diverge_at_first(self: Decoder, *arguments: Any) -> Tensor:
        rates.append(arguments[3])
        loss = train(self, *arguments)
        return loss * float("nan") if len(rates) == 1 else loss

    monkeypatch.setattr(Decoder, "_train", diverge_at_first)
    images = run("decoder", seen, learning_rate=0.016)
    assert rates[:2] == [0.016, 0.004]  # a third one refines the linear map, where that does better
    assert seen.notes["retried"] is seen.notes["converged"] is True
    assert psnr_db(images, victims) > psnr_db(run("mean-image", seen), victims) + 3


@pytest.mark.parametrize("name", sorted(name for name, cls in attacks().items() if not cls.floor))
def test_a_built_in_has_budgets_and_says_what_it_lacks(name: str) -> None:
    attack = configure(attacks()[name], TINY.get(name, {}))
    assert attack.at_budget("small") != attack != attack.at_budget("large")
    if attack.needs == "nothing":
        return
    seen, _ = observe()
    denied = replace(seen, client=None) if attack.needs == "weights" else replace(seen, query=None)
    with pytest.raises(DpbenchError, match="threat model"):
        attack.reconstruct(denied, generator=derive_generator(CPU, "attack"))


@pytest.mark.parametrize("side", [4, 8, 16])
def test_a_large_decoder_is_wider_and_deeper_than_any_that_dpm_trains_against(side: int) -> None:
    decoder = Decoder().at_budget("large")
    depth = sum(
        isinstance(module, ResidualBlock) for module in decoder.network((64, side, side), (3, 32, 32)).modules()
    )
    assert decoder.width > max(width for width, _ in RECONSTRUCTORS)
    assert depth > max(depth for _, depth in RECONSTRUCTORS)


@pytest.mark.parametrize("name", ["rmle", "gan"])
@pytest.mark.parametrize(
    ("model", "fault"),
    [
        (QuantisedModel, "vanishing"),
        (DetachedModel, "missing"),
        (ShatteredModel, "shattered"),
        (StarvingModel, "vanishing"),
    ],
)
def test_straight_through_where_gradients_are_useless(name: str, model: type[ProtectedModel], fault: str) -> None:
    seen, victims = observe(model)
    images = run(name, seen)
    assert seen.notes["fallbacks"] == [f"straight-through gradient ({fault})"]
    assert psnr_db(images, victims) > psnr_db(run("mean-image", seen), victims) + 3


@pytest.mark.parametrize(
    ("layout", "model"),
    [
        ("conv", MixedModel),
        *((layout, model) for layout in HEADS for model in (ProtectedModel, NoisyModel, MaskedModel)),
    ],
)
def test_gradients_that_lead_somewhere_are_followed(layout: str, model: type[ProtectedModel]) -> None:
    seen, _ = observe(model, head=HEADS[layout]())
    match = study_client(seen, draws=2, generator=derive_generator(CPU, "match"))
    assert match.surrogate is None, seen.notes


class ReshapingModel(ProtectedModel):
    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return features.flatten(1).round()


def test_a_surrogate_is_learned_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surrogate, "STEPS", 60)
    seen, victims = observe(ReshapingModel)
    images = run("rmle", seen)
    assert seen.notes["fallbacks"] == ["gradient of a learned surrogate (vanishing)"]
    assert psnr_db(images, victims) > psnr_db(run("mean-image", seen), victims) + 3


class Frozen(ProtectedModel):
    """Nothing passes a gradient, not even what would be before the defense."""

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        return super().features(images)


class Liar(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, features: Tensor) -> Tensor:
        return features.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return torch.randn(gradient.shape, generator=derive_generator(CPU, "lies")) * gradient.norm()


class LyingModel(ProtectedModel):
    """The backward pass is noise, also that of the features before the defense."""

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = Liar.apply(super().features(images))
        return features


@pytest.mark.parametrize("model", [Frozen, LyingModel])
def test_the_undefended_head_gives_the_gradient_that_the_client_does_not(model: type[ProtectedModel]) -> None:
    honest, victims = observe()
    seen, _ = observe(model)
    seen = replace(seen, undefended=honest.client)
    images = run("rmle", seen)
    assert "gradient of the undefended client" in str(seen.notes["fallbacks"])
    assert psnr_db(images, victims) > psnr_db(run("rmle", honest), victims) - 3


def test_without_any_head_a_surrogate_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surrogate, "STEPS", 60)
    seen, victims = observe(LyingModel)
    images = run("rmle", seen)
    assert "learned surrogate" in str(seen.notes["fallbacks"])
    assert psnr_db(images, victims) > psnr_db(run("mean-image", seen), victims) + 3


def test_without_any_gradient_the_row_is_an_error_not_a_low_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    def constant(seen: Observation, *_: object) -> Callable[[Tensor], Tensor]:
        return lambda images: seen.released[:1].expand(len(images), -1, -1, -1)

    monkeypatch.setattr(release_match, "learned_surrogate", constant)
    seen, _ = observe(Frozen)
    with pytest.raises(DpbenchError, match="no gradient of its release or of its features"):
        run("rmle", seen)


@pytest.mark.parametrize("name", ["rmle", "gan", "gan-faces", "decoder"])
def test_directions_of_tiny_variance_hide_nothing(name: str) -> None:
    seen, victims = observe(MixedModel)
    assert psnr_db(run(name, seen), victims) > psnr_db(run("mean-image", seen), victims) + 3


@pytest.mark.parametrize("name", ["rmle", "gan", "decoder"])
def test_further_releases_help_against_noise(name: str) -> None:
    once, victims = observe(LoudModel)
    often, _ = observe(LoudModel, releases=8)
    gain = psnr_db(run(name, often), victims) - psnr_db(run(name, once), victims)
    assert gain > (1 if name == "rmle" else 0)


def test_further_releases_fill_masked_entries() -> None:
    once, _ = observe(MaskedModel)
    often, victims = observe(MaskedModel, releases=8)
    assert (pooled(victim_releases(often)) == 0).float().mean() < 0.02
    assert psnr_db(run("rmle", often), victims) > psnr_db(run("rmle", once), victims)
    assert often.notes["fallbacks"] == ["expectation over 2 draws", "masked entries left out"]


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


class PatchHead(nn.Module):
    """(N,3,H,W) -> an embedding of each patch, laid out as asked for; 7x7 or 8x8 patches at any size."""

    def __init__(self, patch: int, layout: str) -> None:
        super().__init__()
        self.patch, self.layout = patch, layout

    def forward(self, images: Tensor) -> Tensor:
        grid = functional.avg_pool2d(images, self.patch)
        grid = torch.cat([grid, grid.roll(1, 1) - grid], 1)
        if self.layout == "NCHW":
            return grid
        tokens = grid.flatten(2).transpose(1, 2)
        if self.layout == "NLC":
            return torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        return grid.permute(0, 2, 3, 1) if self.layout == "NHWC" else tokens.flatten(1)


LAYOUTS = ("NCHW", "NHWC", "NLC", "flat")


@pytest.mark.parametrize(
    ("size", "layout"), [*((size, layout) for size in (28, 96) for layout in LAYOUTS), (384, "NLC"), (384, "flat")]
)
def test_the_decoder_adapts_to_any_grid_and_image_size(size: int, layout: str) -> None:
    seen, victims = observe(head=PatchHead(size // 7 if size == 28 else size // 8, layout), height=size, width=size)
    count = 64 if size < 384 else 24
    few = LabelledImages(seen.auxiliary.images[:count], seen.auxiliary.labels[:count])
    seen = replace(seen, auxiliary=few)
    images = run("decoder", seen, width=16, steps=64 if size < 384 else 24, batch_size=8 if size < 384 else 4)
    check_images(images, seen)
    guess = few.images[:].mean(0, keepdim=True).expand_as(victims)
    assert psnr_db(images, victims) > psnr_db(guess, victims) + 1


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


def test_many_victims_go_in_chunks() -> None:
    seen, _ = observe()
    seen = dataclasses.replace(seen, auxiliary=seen.auxiliary.at_most(4))
    attack = RegularisedMaximumLikelihood(steps=2, decoder_steps=30, decoder_width=32, decoder_blocks=1)
    check_images(attack.reconstruct(seen, generator=derive_generator(CPU, "attack")), seen)


def covariance(features: Tensor, axis: int) -> Tensor:
    return torch.cov(features.movedim(axis, -1).flatten(0, -2).T.double())


@pytest.mark.parametrize(("shape", "axis"), [((6, 5, 4), 1), ((5, 5, 6), 3), ((20, 6), 2), ((6,), 1)])
def test_whitened_features_have_unit_covariance(shape: tuple[int, ...], axis: int) -> None:
    generator = derive_generator(CPU, "whitening")
    mixture = torch.randn(6, 6, generator=generator)
    features = (torch.randn(500, *shape, generator=generator).movedim(axis, -1) @ mixture + 3).movedim(-1, axis)
    whitening = Whitening(shape)
    whitening.fit(features, ridge=0)
    white = whitening(features)
    torch.testing.assert_close(covariance(white, axis), torch.eye(6).double(), atol=1e-2, rtol=0)
    torch.testing.assert_close(
        whitening(features[1:3]) - whitening(features[:2]),
        whitening.difference(features[1:3], features[:2]),
        atol=1e-3,
        rtol=1e-3,
    )
    other = Whitening(shape)
    other.load_state_dict(whitening.state_dict())
    assert torch.equal(other(features), white)


def test_whitening_where_there_is_little_to_whiten() -> None:
    generator = derive_generator(CPU, "whitening")
    maps = torch.randn(50, 6, 4, 4, generator=generator)
    maps[:, 2] = 5.0
    dead = Whitening((6, 4, 4))
    dead.fit(maps)
    assert dead(maps).isfinite().all()
    assert dead(maps)[:, 2].abs().max() < 1e-3
    silent = Whitening((6, 4, 4))
    silent.fit(torch.full((50, 6, 4, 4), 0.3))
    assert silent(torch.full((2, 6, 4, 4), 0.3)).abs().max() < 1
    # too many values for a covariance, or too few samples
    for values, images in ((1500, 20), (100, 20)):
        flat = torch.randn(images, values, generator=generator) * 7
        whitening = Whitening((values,))
        whitening.fit(flat)
        torch.testing.assert_close(whitening(flat).std(0, correction=0), torch.ones(values))


def test_whitening_weighs_noisy_directions_less() -> None:
    generator = derive_generator(CPU, "whitening")
    features = torch.randn(500, 2, 4, 4, generator=generator)
    apart = torch.randn(500, 2, 4, 4, generator=generator) * torch.tensor([1.0, 0.01]).view(2, 1, 1)
    whitening = Whitening((2, 4, 4))
    whitening.fit(features, again=features - apart)
    assert whitening.matrix[1, 1] > 2 * whitening.matrix[0, 0]
    assert whitening(features).square().mean() == pytest.approx(1, abs=1e-2)


def test_whitening_in_part_still_sees_tiny_directions() -> None:
    generator = derive_generator(CPU, "whitening")
    features = torch.randn(500, 2, 4, 4, generator=generator)
    features = torch.stack([features[:, 0] + 0.01 * features[:, 1], features[:, 0] - 0.01 * features[:, 1]], 1)
    tiny = torch.tensor([0.01, -0.01]).view(1, 2, 1, 1)
    sizes = {}
    for separate in (0.0, 0.5, 1.0):
        whitening = Whitening((2, 4, 4))
        whitening.fit(features, separate=separate, ridge=0)
        sizes[separate] = float(whitening.difference(tiny, torch.zeros_like(tiny)).square().sum(1).mean())
    assert sizes[0.0] == pytest.approx(1, abs=0.05)
    assert sizes[0.5] == pytest.approx(0.5, abs=0.05)
    assert sizes[1.0] < 0.001


def test_pooled_releases() -> None:
    first = torch.tensor([0.0, 0.0, 3.0, 0.1])
    second = torch.tensor([0.0, 2.0, 5.0, 0.1])
    assert pooled([first, second, second]).tolist() == pytest.approx([0, 2, 13 / 3, 0.1])
    assert torch.equal(pooled([first] * 3), first)
