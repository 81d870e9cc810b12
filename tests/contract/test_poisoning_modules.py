"""Modules that are trained to hide: what they hide, keep, and say of themselves."""

from __future__ import annotations

import copy
from collections.abc import Callable

import piq
import pytest
import torch
import torch.nn.functional as F
from dpbench_defenses._dpm_training import mismatch
from dpbench_defenses._writing_back import writer
from dpbench_defenses.waist import WaistModel
from split_networks import (
    CLASSES,
    SHAPE,
    SPLITS,
    conv_split,
    fitted,
    generator,
    make,
    pictures,
    released,
)
from torch import Tensor, nn

from dpbench.border import claims
from dpbench.contract.defense import SplitModel
from dpbench.contract.images import LabelledImages
from dpbench.errors import DpbenchError
from dpbench.metrics.guarantees import guarantees_of
from dpbench.service.tail_stages import activations, stages_of


@pytest.fixture(params=sorted(SPLITS))
def split(request: pytest.FixtureRequest) -> SplitModel:
    return SPLITS[request.param]()


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

    def test_noise_is_stated_of_the_code_alone(self, split: SplitModel) -> None:
        settings = {"noise": 0.5, "batch_size": 16}
        written, coded = (fitted(make("resynthesis", form=form, **settings), split) for form in ("features", "code"))
        images = pictures(64).images
        assert written.noise() is None
        noise = coded.noise()
        assert noise is not None
        assert (noise.distribution, noise.scale) == ("gaussian", 0.5)
        assert claims.refuted(coded, noise, images, generator()) == ""
        assert fitted(make("resynthesis", form="code", noise=0.0), split).noise() is None

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

    def test_what_the_last_stage_sees_is_kept(self) -> None:
        split, private, test = conv_split(), pictures(256, 1), pictures(128, 3)
        last = stages_of(split)[-1:]
        changes = []
        for weight in (0.0, 10.0):
            model = fitted(make("waist", values=4, match_weight=weight, epochs=4), split, private)
            assert isinstance(model, WaistModel)
            with torch.no_grad():
                written = model.written(model.release(test.images))
                found = activations(split, written, last), activations(split, model.features(test.images), last)
            changes.append(float(mismatch(*found)))
        assert changes[1] < changes[0]

    @pytest.mark.parametrize("seed", [5, 20])  # bf16 gave weights that are no numbers
    def test_odd_batches_of_one_position_train(self, seed: int) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            head = nn.Sequential(conv_split().client_head, nn.AdaptiveAvgPool2d(2))
            tail = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
        small = SplitModel(head, tail, split_point="pool", image_shape=SHAPE, classes=CLASSES)
        model = fitted(make("waist", values=4, batch_size=2, epochs=1), small.eval(), pictures(3, 1))
        assert all(value.isfinite().all() for value in model.state_dict().values())

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
