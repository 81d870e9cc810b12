"""Defenses that follow each other: names, parameters, order, and what still holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import Field

from dpbench.contract.defense import AdditiveNoise, Defense, ProtectedModel
from dpbench.contract.feature_transform import FeatureTransform
from dpbench.errors import DpbenchError
from dpbench.metrics.guarantees import Guarantees, guarantees_of
from dpbench.plugins.configuring import configure
from dpbench.plugins.registry import canonical, find_defense
from dpbench.plugins.sources import source_of
from dpbench.service import fitting
from dpbench.service.composition import composed
from dpbench.suite.overrides import entry
from dpbench.suite.suite import PluginEntry
from dpbench.testing import Check, checks_for
from dpbench.testing.tiny import CPU, TinyNetwork, pictures, smooth

IMAGES = smooth(6, seed="images")
SHORT = {"epochs": 1, "blocks": 1, "pool": 2, "batch_size": 16}


def made(name: str, **arguments: object) -> Defense:
    return configure(find_defense(name), arguments)


def fitted(name: str, **arguments: object) -> ProtectedModel:
    private = pictures(64, seed="private")
    return fitting.fit(TinyNetwork(), lambda: made(name, **arguments), private, CPU, lambda text: None)[1]


def contract() -> list[object]:
    chosen = [
        made("topk + gaussian"),
        made("gaussian + pca + quantise"),
        made("dpm + clipped-gaussian", **SHORT),
    ]
    checks = [(defense.name, check) for defense in chosen for check in checks_for(defense)]
    return [pytest.param(check, id=f"{name}-{check.__name__}") for name, check in checks]


@pytest.mark.parametrize("check", contract())
def test_contract(check: Check) -> None:
    check()


def test_parameters_are_those_of_all_and_tell_apart_what_several_have() -> None:
    assert list(find_defense("topk + gaussian").model_fields) == ["keep", "std"]
    assert list(find_defense("gaussian + clipped-gaussian").model_fields) == [
        "gaussian_std",
        "clip",
        "clipped_gaussian_std",
    ]
    assert list(find_defense("gaussian + gaussian").model_fields) == ["gaussian1_std", "gaussian2_std"]
    with pytest.raises(DpbenchError, match=r"parameter std = -1 does not fit: .*; std = 1.0 \(>= 0, <= 1000\)"):
        made("topk + gaussian", std=-1)
    with pytest.raises(DpbenchError, match="unknown parameter of 'topk \\+ gaussian' 'sdt'"):
        made("topk + gaussian", sdt=1)
    with pytest.raises(DpbenchError, match="unknown defense 'gausian'; did you mean 'gaussian'"):
        find_defense("topk + gausian")


def test_what_identifies_it_names_every_part() -> None:
    cls = find_defense("topk + gaussian")
    assert cls is find_defense("topk + gaussian")
    assert (cls.name, source_of(cls)) == ("topk + gaussian", "v1+v1+v1")
    assert find_defense("dpm + gaussian").trained_on == ("ssim",)
    assert vars(find_defense("gaussian + logits-only"))["only_in"] == "inference"


@pytest.mark.parametrize("name", ["topk + gaussian", ["topk", "gaussian"]])
def test_a_list_of_names_is_the_same(name: object) -> None:
    assert PluginEntry.model_validate({"name": name, "std": [1, 2]}).name == "topk + gaussian"
    assert entry("topk + gaussian std=2", "--defense") == {"name": "topk + gaussian", "std": 2}


def test_released_in_order_each_fitted_on_what_came_before() -> None:
    model = fitted("topk + quantise", keep=0.2, bits=3)
    first, last = fitted("topk", keep=0.2), model.parts[1]  # type: ignore[index]
    kept = first.release(IMAGES)
    private = first.release(pictures(64, seed="private").images[:])
    assert float(last.get_buffer("high")) <= float(private.max())
    assert torch.equal(model.release(IMAGES), last.transform(kept))
    assert not torch.equal(model.release(IMAGES), fitted("quantise + topk", keep=0.2, bits=3).release(IMAGES))
    assert torch.equal(model.features(IMAGES), fitted("none").release(IMAGES))
    assert torch.equal(model.predict(model.release(IMAGES)), first.predict(model.release(IMAGES)))


def test_the_server_undoes_the_last_first() -> None:
    model = fitted("pca + rotate", keep=1.0)
    torch.testing.assert_close(model(IMAGES), fitted("none")(IMAGES), atol=1e-4, rtol=1e-4)


def test_all_draw_from_the_generator_of_the_release() -> None:
    model = fitted("gaussian + gaussian")
    one, same, other = (model.release(IMAGES, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_noise_that_comes_last_guarantees_what_it_does_alone() -> None:
    model = fitted("blur + gaussian", std=2.0)
    noise = model.noise()
    assert noise is not None
    private = fitted("blur").release(pictures(64, seed="private").images[:])
    assert noise.scale == pytest.approx(2 * float(private.std(correction=0)), rel=1e-4)
    torch.testing.assert_close(model.location(IMAGES), fitted("blur").release(IMAGES))
    assert guarantees_of(model, IMAGES, releases=1, generator=torch.Generator().manual_seed(0)) is not None


def guaranteed(model: ProtectedModel) -> Guarantees | None:
    return guarantees_of(model, IMAGES, releases=1, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["dropout + gaussian", "gaussian + quantise", "gaussian + gaussian"])
def test_what_is_sent_is_not_noise_around_something_that_draws_or_below_something_else(name: str) -> None:
    assert fitted(name).noise() is None


@pytest.mark.parametrize("behind", ["quantise", "topk", "gaussian", "quantise + topk", "dropout"])
def test_processing_what_is_noisy_takes_no_guarantee_away(behind: str) -> None:
    alone = guaranteed(fitted("clipped-gaussian"))
    found = guaranteed(fitted(f"clipped-gaussian + {behind}"))
    assert alone is not None
    assert alone.epsilon is not None
    assert found == alone
    before = guaranteed(fitted(f"blur + clipped-gaussian + {behind}"))
    assert before == guaranteed(fitted("blur + clipped-gaussian"))


@pytest.mark.parametrize("name", ["dropout + clipped-gaussian + quantise", "dropout + gaussian", "blur + quantise"])
def test_nothing_is_guaranteed_where_something_is_drawn_before_or_no_noise_is_stated(name: str) -> None:
    assert guaranteed(fitted(name)) is None


def test_nothing_is_guaranteed_where_what_follows_could_read_the_image() -> None:
    """A cloak puts its noise on the pixels, and trains on what comes out."""
    assert guaranteed(fitted("clipped-gaussian + cloak", epochs=1, batch_size=16)) is None


@pytest.mark.parametrize(("name", "sparse"), [("quantise + topk", True), ("topk + quantise", False)])
def test_what_is_sent_is_what_the_last_sends(name: str, sparse: bool) -> None:
    assert fitted(name).is_sparse() is sparse


class Stepwise(FeatureTransform):
    """Whole numbers, as a device sends them."""

    name = "stepwise"
    step: float = Field(0.25, gt=0, description="what one of them means")

    def transform(self, features, state, *, generator):
        return (features / self.step).round()


class Sized(FeatureTransform):
    """Has a parameter of a name that others have, and noise of its own."""

    name = "1st/sized"
    step: float = Field(1.0, gt=0, description="of the noise")

    def transform(self, features, state, *, generator):
        return features + self.step * torch.randn(features.shape, generator=generator)

    def stated_noise(self, state):
        return AdditiveNoise("gaussian", self.step)


def test_classes_in_hand_are_composed_too() -> None:
    cls = composed((Stepwise, Sized))
    assert list(cls.model_fields) == ["stepwise_step", "defense_1st_sized_step"]
    defense = cls(stepwise_step=0.5, defense_1st_sized_step=0.1)
    _, model = fitting.fit(TinyNetwork(), lambda: defense, pictures(8, seed="private"), CPU, lambda text: None)
    assert model.noise() == AdditiveNoise("gaussian", 0.1)


def test_references_to_files_keep_their_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert canonical(f"gaussian + {tmp_path}/mine.py:Mine") == "gaussian + mine.py:Mine"
