"""Every defense in the registry keeps the contract; known answers for those that have a formula."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import dp_accounting
import piq
import pytest
import torch
import torch.nn.functional as F
from dpbench_defenses._dpm_training import mismatch
from dpbench_defenses._writing_back import writer
from torch import Tensor, nn

from dpbench.contract.defense import Defense, ProtectedModel, SplitModel
from dpbench.contract.feature_transform import feature_batches
from dpbench.contract.images import LabelledImages
from dpbench.errors import DpbenchError
from dpbench.metrics.guarantees import guarantees_of
from dpbench.plugins.configuring import configure
from dpbench.plugins.registry import defenses
from dpbench.service.tail_stages import activations
from dpbench.testing import Check, checks_for
from dpbench.toolkit.calibration import mean_and_std, median_norm, quantiles

CLASSES = 4
SHAPE = (3, 16, 16)
NAMES = sorted(defenses())
STOCHASTIC = {"gaussian", "laplace", "clipped-gaussian", "dropout", "token-shuffle", "token-drop", "resynthesis"}
STOCHASTIC |= {"shredder", "vib", "cem", "cloak"}
ADDITIVE = {"gaussian": "gaussian", "laplace": "laplace", "clipped-gaussian": "gaussian", "cem": "gaussian"}
"""Defenses that state their noise, and its distribution."""
SHORT = {"epochs": 1, "blocks": 1, "pool": 2, "batch_size": 16}
TUNED = {"fine-tuned", "nopeek", "adversarial", "vib", "cem", "siamese", "siftfunnel"}
"""Defenses that change head and tail."""
FAST: dict[str, dict[str, Any]] = {
    "dpm": SHORT,
    "dpm-equivalent": SHORT,
    "resynthesis": {"epochs": 1, "batch_size": 16},
    "waist": {"epochs": 1, "batch_size": 16, "values": 6},
    **{name: {"epochs": 2} for name in (*TUNED, "shredder", "cloak", "disco")},
}
OUT_OF_RANGE: dict[str, dict[str, Any]] = {
    "gaussian": {"std": -0.1},
    "laplace": {"scale": -1},
    "clipped-gaussian": {"clip": 0},
    "dropout": {"p": 1.0},
    "quantise": {"bits": 9},
    "topk": {"keep": 0},
    "blur": {"sigma": 0},
    "pca": {"keep": 1.1},
    "rotate": {"block": 0},
    "token-shuffle": {"share": 0},
    "token-drop": {"share": 1},
    "logits-only": {"form": "image"},
    "dpm": {"strength": -1},
    "dpm-equivalent": {"strength": -1},
    "resynthesis": {"noise": -0.1},
    "waist": {"values": 0},
    "mix": {"images_per_release": 1},
    "fine-tuned": {"bottleneck": -1},
    "nopeek": {"strength": -1},
    "adversarial": {"objective": "patrole"},
    "vib": {"strength": -1},
    "cem": {"clusters": 0},
    "siamese": {"margin": 0},
    "siftfunnel": {"strength": -1},
    "shredder": {"tensors": 0},
    "cloak": {"largest": 0},
    "disco": {"share": 1.0},
}


class Normalise(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return (images - 0.5) / 0.25


class Tokens(nn.Module):
    """Patches of 4x4 as tokens, a class token in front."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 24, 4, stride=4)
        self.first = nn.Parameter(torch.randn(1, 1, 24))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch(images).flatten(2).transpose(1, 2)
        return torch.cat([self.first.expand(len(patches), -1, -1), patches], dim=1)


class ClassToken(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(1)


def conv_split() -> SplitModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Sequential(Normalise(), nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        tail = nn.Sequential(
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(128, CLASSES),
        )
    return SplitModel(head, tail, split_point="conv", image_shape=SHAPE, classes=CLASSES).eval()


def token_split() -> SplitModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Sequential(Normalise(), Tokens())
        tail = nn.Sequential(ClassToken(), nn.LayerNorm(24), nn.Linear(24, CLASSES))
    return SplitModel(head, tail, split_point="tokens", image_shape=SHAPE, classes=CLASSES).eval()


class ToChannelsLast(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.permute(0, 2, 3, 1)


class ToMaps(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.permute(0, 3, 1, 2)


def channels_last_split() -> SplitModel:
    maps = conv_split()
    head = nn.Sequential(maps.client_head, ToChannelsLast())
    tail = nn.Sequential(ToMaps(), maps.server_tail)
    return SplitModel(head, tail, split_point="channels last", image_shape=SHAPE, classes=CLASSES).eval()


def flat_split() -> SplitModel:
    maps = conv_split()
    shape = maps.client_head(torch.zeros(1, *SHAPE)).shape[1:]
    head = nn.Sequential(maps.client_head, nn.Flatten())
    tail = nn.Sequential(nn.Unflatten(1, shape), maps.server_tail)
    return SplitModel(head, tail, split_point="flat", image_shape=SHAPE, classes=CLASSES).eval()


SPLITS: dict[str, Callable[[], SplitModel]] = {
    "conv": conv_split,
    "tokens": token_split,
    "channels last": channels_last_split,
    "flat": flat_split,
}


def pictures(n: int, seed: int = 0) -> LabelledImages:
    """A bright square on a smooth background; its quadrant is the class."""
    g = torch.Generator().manual_seed(seed)
    background = F.interpolate(torch.rand(n, 3, 4, 4, generator=g), SHAPE[1:], mode="bilinear") * 0.7
    labels = torch.randint(CLASSES, (n,), generator=g)
    for image, label in zip(background, labels.tolist(), strict=True):
        top, left = 2 + 8 * (label // 2), 2 + 8 * (label % 2)
        image[:, top : top + 4, left : left + 4] = 1.0
    return LabelledImages(background, labels)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(name: str, **arguments: object) -> Defense:
    return configure(defenses()[name], {**FAST.get(name, {}), **arguments})


def fitted(defense: Defense, split: SplitModel, private: LabelledImages | None = None, seed: int = 0) -> ProtectedModel:
    model = defense.build(split).eval()
    data = pictures(64) if private is None else private
    defense.fit(model, data, generator=generator(seed), progress=lambda text: None)
    return model


@torch.no_grad()
def released(model: ProtectedModel, n: int = 8, seed: int = 7) -> Tensor:
    return model.release(pictures(n, seed=99).images, generator=generator(seed))


def state(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def assert_same_state(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for key in left:
        assert torch.equal(left[key], right[key]), key


@pytest.fixture(params=sorted(SPLITS))
def split(request: pytest.FixtureRequest) -> SplitModel:
    return SPLITS[request.param]()


def contract() -> list[Any]:
    """Every rule of every registered defense."""
    checks = [(name, check) for name in NAMES for check in checks_for(make(name))]
    return [pytest.param(check, id=f"{name}-{check.__name__}") for name, check in checks]


@pytest.mark.parametrize("check", contract())
def test_contract(check: Check) -> None:
    check()


@pytest.mark.parametrize("name", NAMES)
class TestBuiltIn:
    def test_backbone_is_left_as_it_was(self, name: str, split: SplitModel) -> None:
        next(split.server_tail.parameters()).requires_grad_(False)
        before = state(split)
        flags = {key: p.requires_grad for key, p in split.named_parameters()}
        model = fitted(make(name), split)
        if name not in TUNED:
            assert_same_state(before, state(model.split))
        assert flags == {key: p.requires_grad for key, p in model.split.named_parameters()}
        assert all(p.grad is None for p in model.split.parameters())
        assert not model.training
        assert not model.split.training

    def test_is_stochastic_or_not_and_states_its_noise_or_not(self, name: str) -> None:
        model = fitted(make(name), conv_split())
        assert torch.equal(released(model, seed=1), released(model, seed=2)) is (name not in STOCHASTIC)
        noise = model.noise()
        assert (noise.distribution if noise else None) == ADDITIVE.get(name)

    def test_out_of_range_and_unknown_parameters_are_refused(self, name: str) -> None:
        if name in OUT_OF_RANGE:
            with pytest.raises(DpbenchError, match=next(iter(OUT_OF_RANGE[name]))):
                configure(defenses()[name], OUT_OF_RANGE[name])
        with pytest.raises(DpbenchError, match="unknown parameter"):
            configure(defenses()[name], {"no_such_thing": 1})


class TestKnownAnswers:
    def test_gaussian_noise_has_the_stated_std(self) -> None:
        model = fitted(make("gaussian", std=0.5), conv_split())
        noise, clean = _noise_and_features(model)
        assert noise.std() == pytest.approx(0.5 * clean.std().item(), rel=0.03)
        assert abs(noise.mean()) < 0.02 * clean.std()

    def test_laplace_noise_has_variance_two_b_squared(self) -> None:
        model = fitted(make("laplace", scale=2.0), conv_split())
        noise, clean = _noise_and_features(model)
        b = 2.0 * clean.std().item()
        assert noise.var() == pytest.approx(2 * b * b, rel=0.06)
        assert noise.abs().mean() == pytest.approx(b, rel=0.03)  # tells Laplace from a Gaussian of equal variance
        assert abs(noise.mean()) < 0.05 * b

    def test_laplace_noise_is_finite_at_the_ends_of_the_draw(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = fitted(make("laplace"), conv_split())
        for u in (0.0, 0.5, 1 - 2**-24):
            monkeypatch.setattr(torch, "rand", lambda *shape, u=u, **options: torch.full(shape[0], u))
            assert model.transform(torch.zeros(2, 16, 8, 8)).isfinite().all()

    @pytest.mark.parametrize(("clip", "std"), [(1.0, 1.0), (0.5, 0.2), (3.0, 2.0)])
    def test_clipped_gaussian_scales_down_and_adds_noise_in_units_of_the_norm(self, clip: float, std: float) -> None:
        split, private = conv_split(), pictures(63)
        model = fitted(make("clipped-gaussian", clip=clip, std=std), split, private)
        features = split.client_head(private.images)
        norms = features.flatten(1).norm(dim=1)
        noise = model.noise()
        assert noise is not None
        assert noise.clip_norm == pytest.approx(clip * norms.median().item())
        assert noise.scale == pytest.approx(std * noise.clip_norm / (16 * 8 * 8) ** 0.5)
        location = model.location(private.images)
        torch.testing.assert_close(location.flatten(1).norm(dim=1), norms.clamp_max(noise.clip_norm))
        torch.testing.assert_close(F.cosine_similarity(location.flatten(1), features.flatten(1)), torch.ones(63))

    def test_clipped_gaussian_without_noise_releases_its_location(self) -> None:
        model = fitted(make("clipped-gaussian", std=0), conv_split())
        images = pictures(8, seed=99).images
        torch.testing.assert_close(model.release(images), model.location(images))
        assert guarantees_of(model, images, releases=1, generator=generator()) is None

    def test_clipped_gaussian_survives_features_that_are_all_zero(self) -> None:
        split = conv_split()
        for parameter in split.client_head.parameters():
            nn.init.zeros_(parameter)
        assert not released(fitted(make("clipped-gaussian"), split)).any()

    @pytest.mark.parametrize(("releases", "delta"), [(1, 1e-5), (4, 1e-6)])
    def test_epsilon_of_clipped_gaussian(self, releases: int, delta: float) -> None:
        """Noise std * C / sqrt(D) against sensitivity 2C: C cancels; an accountant of events agrees."""
        model = fitted(make("clipped-gaussian", std=200), conv_split())
        images = pictures(2, seed=99).images
        found = guarantees_of(model, images, releases=releases, generator=generator(), delta=delta)
        assert found is not None
        accountant = dp_accounting.pld.PLDAccountant()
        accountant.compose(dp_accounting.GaussianDpEvent(200 / (2 * 1024**0.5)), releases)
        assert found.epsilon == pytest.approx(accountant.get_epsilon(delta), rel=1e-3)
        assert found.delta == delta

    @pytest.mark.parametrize("p", [0.0, 0.3, 0.9])
    def test_dropout_drops_the_stated_share_and_keeps_the_expectation(self, p: float) -> None:
        model = fitted(make("dropout", p=p), conv_split())
        ones = torch.ones(64, 16, 8, 8)
        out = model.transform(ones, generator=generator())
        assert (out == 0).float().mean() == pytest.approx(p, abs=0.01)
        assert out.mean() == pytest.approx(1, abs=0.05)
        assert out.max() == pytest.approx(1 / (1 - p))

    @pytest.mark.parametrize("bits", [1, 2, 4, 8])
    def test_quantise_has_few_levels_and_a_bounded_error(self, bits: int) -> None:
        model = fitted(make("quantise", bits=bits), conv_split())
        low, high = model.get_buffer("low"), model.get_buffer("high")
        inside = low + (high - low) * torch.rand(8, 16, 8, 8, generator=generator())
        out = model.transform(inside)
        assert len(out.unique()) == 2**bits
        bound = (high - low) / (2**bits - 1) / 2
        assert ((out - inside).abs() <= bound * (1 + 1e-4)).all()
        beyond = model.transform(torch.tensor([[-1e6, 1e6]]))
        torch.testing.assert_close(beyond, torch.stack([low, high])[None])

    def test_quantise_range_is_that_of_the_private_features(self) -> None:
        model = fitted(make("quantise"), conv_split())
        clean = model.features(pictures(64).images)
        assert model.get_buffer("low") == pytest.approx(clean.min().item(), abs=1e-3)
        assert 0.7 * clean.max() < model.get_buffer("high") <= clean.max()

    def test_more_bits_less_error(self) -> None:
        split = conv_split()
        clean = split.client_head(pictures(8, seed=99).images)
        errors = [
            F.mse_loss(released(fitted(make("quantise", bits=bits), split)), clean).item() for bits in range(1, 9)
        ]
        assert errors == sorted(errors, reverse=True)

    def test_quantise_has_no_gradient(self) -> None:
        model = fitted(make("quantise"), conv_split())
        features = torch.rand(2, 16, 8, 8, requires_grad=True)
        model.transform(features).sum().backward()
        assert features.grad is not None
        assert not features.grad.any()

    def test_quantise_survives_constant_features(self) -> None:
        split = conv_split()
        for parameter in split.client_head.parameters():
            nn.init.zeros_(parameter)
        assert released(fitted(make("quantise"), split)).isfinite().all()


def _noise_and_features(model: ProtectedModel) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        clean = model.features(pictures(64).images)
        return model.transform(clean, generator=generator()) - clean, clean


class TestCalibration:
    def test_streams_to_the_same_figures(self) -> None:
        features = 1e3 + torch.randn(70, 5, 4, 4, generator=generator()) * torch.arange(1, 6).view(5, 1, 1)
        mean, std = mean_and_std(features.split(16))
        torch.testing.assert_close(mean, features.mean())
        torch.testing.assert_close(std, features.std(correction=0))
        mean, std = mean_and_std(features.split(16), channel_dim=1)
        torch.testing.assert_close(mean, features.mean((0, 2, 3)))
        torch.testing.assert_close(std, features.std((0, 2, 3), correction=0))

    def test_quantiles_of_a_small_set_are_exact(self) -> None:
        values = torch.randn(100, 6, generator=generator())
        found = quantiles(values.split(30), [0.0, 0.25, 1.0], generator=generator())
        torch.testing.assert_close(found, torch.quantile(values, torch.tensor([0.0, 0.25, 1.0])))

    def test_median_norm_is_that_of_whole_images(self) -> None:
        features = torch.randn(71, 5, 4, 4, generator=generator()) * torch.arange(71).view(-1, 1, 1, 1)
        norm, values = median_norm(features.split(16))
        torch.testing.assert_close(norm, features.flatten(1).norm(dim=1).median())
        assert values == 80

    def test_takes_each_private_image_at_most_once(self) -> None:
        model = make("none").build(conv_split())
        private = pictures(40)
        seen = torch.cat(list(feature_batches(model, private, generator=generator(), images=30, batch_size=8)))
        assert len(seen) == 30
        assert len(seen.flatten(1).unique(dim=0)) == 30

    def test_needs_an_image(self) -> None:
        model = make("none").build(conv_split())
        with pytest.raises(DpbenchError, match="0 private images"):
            list(feature_batches(model, pictures(0), generator=generator()))
        with pytest.raises(DpbenchError, match="at least one batch"):
            mean_and_std([])
        with pytest.raises(DpbenchError, match="at least one batch"):
            quantiles([], [0.5], generator=generator())
        with pytest.raises(DpbenchError, match="at least one batch"):
            median_norm([])


class TestDeepPoisoning:
    def test_every_weight_of_the_module_is_trained(self, split: SplitModel) -> None:
        """A defense whose parameters are in no optimiser is one of the known mistakes of public benchmarks."""
        short, longer = (fitted(make("dpm", epochs=1, batch_size=size), copy.deepcopy(split)) for size in (64, 16))
        backbone = {id(p) for p in longer.split.parameters()}
        ours = [key for key, p in longer.named_parameters() if id(p) not in backbone]
        assert ours
        for key in ours:
            assert not torch.equal(short.get_parameter(key), longer.get_parameter(key)), key

    def test_waist_bounds_what_the_module_carries(self) -> None:
        """With one block nothing but linear layers follow the waist: the release has its rank."""
        out = released(fitted(make("dpm", blocks=1, channels=3, grid=2), conv_split()), n=64).flatten(1)
        values = torch.linalg.svdvals(out - out.mean(0))
        assert values[11] > 1e-3 * values[0]
        assert values[12] < 1e-4 * values[0]

    def test_works_without_a_waist_and_with_one_wider_than_the_features(self, split: SplitModel) -> None:
        for arguments in ({"channels": 0}, {"channels": 64, "grid": 64}):
            assert released(fitted(make("dpm", **arguments), split)).isfinite().all()

    def test_refuses_features_of_no_known_layout(self) -> None:
        head, tail = nn.Unflatten(1, (1, 3)), nn.Sequential(nn.Flatten(), nn.Linear(768, CLASSES))
        cube = SplitModel(head, tail, split_point="cube", image_shape=SHAPE, classes=CLASSES)
        with pytest.raises(DpbenchError, match="'cube' are \\(N, 1, 3, 16, 16\\)"):
            make("dpm").build(cube.eval())

    def test_only_the_equivalent_module_learns_nothing_from_labels(self, split: SplitModel) -> None:
        private = pictures(64, 1)
        other = LabelledImages(private.images, private.labels.flip(0))
        for name, same in {"dpm": False, "dpm-equivalent": True}.items():
            one, two = (fitted(make(name), copy.deepcopy(split), images) for images in (private, other))
            assert torch.equal(released(one), released(two)) is same, name

    def test_fools_the_decoder_of_clean_features_and_keeps_the_task(self) -> None:
        split, private, auxiliary, test = conv_split(), pictures(512, 1), pictures(512, 2), pictures(128, 3)
        _train(split, lambda: F.cross_entropy(split.train()(private.images), private.labels), steps=60)
        split.eval()
        decoder = _decoder()
        with torch.no_grad():
            clean = split.client_head(auxiliary.images)
        _train(decoder, lambda: F.mse_loss(decoder(clean), auxiliary.images), steps=150)
        model = fitted(make("dpm", epochs=4, batch_size=32), split, private)
        with torch.no_grad():
            ssim = {
                key: piq.ssim(decoder(z).clamp(0, 1), test.images, data_range=1.0).item()
                for key, z in {
                    "clean": split.client_head(test.images),
                    "poisoned": model.release(test.images),
                }.items()
            }
            accuracy = {
                key: (m(test.images).argmax(1) == test.labels).float().mean().item()
                for key, m in {"clean": split, "poisoned": model}.items()
            }
        assert ssim["clean"] > 0.5
        assert ssim["poisoned"] < 0.3
        assert accuracy["clean"] > 0.9
        assert accuracy["poisoned"] > accuracy["clean"] - 0.08

    def test_matched_stages_are_kept_better_than_logits_alone_keep_them(self) -> None:
        split, images = conv_split(), pictures(32, 3).images
        change = {}
        for match in ((), ("0",)):
            model = fitted(make("dpm", epochs=8, strength=0.0, match=match), copy.deepcopy(split))
            with torch.no_grad():
                released, clean = model.release(images), split.client_head(images)
                found, wanted = (activations(split, features, ["0"]) for features in (released, clean))
            change[match] = float(mismatch(found, wanted))
        assert change["0",] < 0.7 * change[()]

    def test_stages_to_match_are_in_no_id_unless_given_and_must_be_there(self) -> None:
        assert "match" not in make("dpm").model_dump(mode="json")
        assert make("dpm", match="layer3").model_dump(mode="json")["match"] == ["layer3"]
        with pytest.raises(DpbenchError, match="dpm: stage 'layer3' is not behind the split point 'conv'"):
            make("dpm", match="layer3").build(conv_split())


class TestResynthesis:
    def test_every_weight_of_the_writer_is_trained(self, split: SplitModel) -> None:
        short, longer = (fitted(make("resynthesis", batch_size=size), copy.deepcopy(split)) for size in (64, 16))
        ours = [name for name, _ in longer.named_parameters() if name.startswith("writer.")]
        assert ours
        for name in ours:
            assert not torch.equal(short.get_parameter(name), longer.get_parameter(name)), name

    def test_a_release_is_made_of_the_code_alone(self, split: SplitModel) -> None:
        model = fitted(make("resynthesis", noise=0.0), split)
        features = model.features(pictures(4).images)
        code = model.clean_code(features[:1]).expand(4, *[-1] * (model.clean_code(features).ndim - 1))
        assert not torch.allclose(model.transform(features)[0], model.transform(features)[1])
        model.clean_code = lambda features: code  # type: ignore[method-assign]
        out = model.transform(features)
        torch.testing.assert_close(out[1], out[0])

    def test_the_code_may_be_released_and_the_server_writes_features_from_it(self, split: SplitModel) -> None:
        settings = {"noise": 0.5, "batch_size": 16}
        written = fitted(make("resynthesis", **settings), copy.deepcopy(split))
        coded = fitted(make("resynthesis", form="code", **settings), copy.deepcopy(split))
        images = pictures(4).images
        code, features = (model.release(images, generator=generator()) for model in (coded, written))
        assert code.shape == coded.clean_code(coded.features(images)).shape
        torch.testing.assert_close(coded.written(code), features)
        torch.testing.assert_close(coded.predict(code), written.predict(features))
        assert "form" not in make("resynthesis").model_dump(mode="json")

    def test_keeps_what_the_network_computes_and_not_the_features(self) -> None:
        split, private, test = conv_split(), pictures(512, 1), pictures(128, 3)
        _train(split, lambda: F.cross_entropy(split.train()(private.images), private.labels), steps=60)
        split.eval()
        model = fitted(make("resynthesis", stage=3, noise=0.2, epochs=4), split, private)
        with torch.no_grad():
            clean, found = split.client_head(test.images), model.release(test.images, generator=generator())
            wanted, kept = (activations(split, features, ["3"])["3"] for features in (clean, found))
        accuracy = float((model.predict(found).argmax(1) == test.labels).float().mean())
        assert accuracy > 0.9
        assert F.mse_loss(kept, wanted) < 0.3 * wanted.var()
        assert F.mse_loss(found, clean) > 0.3 * clean.var()

    @pytest.mark.parametrize("shape", [(5, 6, 7), (4, 4, 9), (17, 12), (40,), (3, 16, 16)])
    @pytest.mark.parametrize("code", [(8, 2, 2), (2, 2, 8), (17, 8), (5, 8), (8,), (4, 1, 1)])
    def test_any_code_is_written_back_to_any_layout(self, code: tuple[int, ...], shape: tuple[int, ...]) -> None:
        assert writer(code, shape)(torch.zeros(2, *code)).shape == (2, *shape)

    def test_refuses_a_stage_that_is_not_there(self) -> None:
        with pytest.raises(DpbenchError, match="resynthesis: stage '9' is not behind the split point 'conv'"):
            make("resynthesis", stage=9).build(conv_split())


class TestWaist:
    def test_releases_short_codes(self, split: SplitModel) -> None:
        assert released(fitted(make("waist", values=5), split)).shape == (8, 5)

    def test_codes_of_few_bits_are_integers_and_predict_knows_what_they_mean(self) -> None:
        split, private, test = conv_split(), pictures(512, 1), pictures(128, 3)
        _train(split, lambda: F.cross_entropy(split.train()(private.images), private.labels), steps=60)
        model = fitted(make("waist", values=8, bits=2, epochs=4), split.eval(), private)
        codes = model.release(test.images)
        assert codes.dtype == torch.uint8
        assert set(codes.unique().tolist()) <= {0, 1, 2, 3}
        assert (model.predict(codes).argmax(1) == test.labels).float().mean() > 0.8

    def test_noise_is_stated_and_bounds_the_information(self) -> None:
        bits = []
        for power in (0.0, 1.0):
            model = fitted(make("waist", values=4, noise=1.0, power=power, epochs=4), conv_split(), pictures(256))
            found = guarantees_of(model, pictures(64, 3).images, releases=1, generator=generator())
            assert found is not None
            assert found.information_bits is not None
            bits.append(found.information_bits)
        assert 0 < bits[1] < bits[0]

    def test_noise_on_integers_is_refused(self) -> None:
        with pytest.raises(DpbenchError, match="noise and bits are both given"):
            make("waist", noise=1.0, bits=2)


def _decoder() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 12, 3, padding=1), nn.PixelShuffle(2)
        )


def _train(module: nn.Module, loss: Callable[[], Tensor], *, steps: int) -> None:
    optimizer = torch.optim.Adam(module.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    for parameter in module.parameters():
        parameter.grad = None
