"""White-box attacks where gradients vanish, are missing, shattered or lies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from attacked_clients import (
    CPU,
    HEADS,
    DetachedModel,
    Frozen,
    LyingModel,
    MaskedModel,
    MixedModel,
    NoisyModel,
    QuantisedModel,
    ShatteredModel,
    ShrunkModel,
    SparseModel,
    SparseNoisyModel,
    StarvingModel,
    observe,
    psnr_db,
    run,
)
from dpbench_attacks._pyramid_search import PyramidSearch
from torch import Tensor

from dpbench.contract.attack import Observation
from dpbench.contract.defense import ProtectedModel
from dpbench.errors import DpbenchError
from dpbench.machine.randomness import derive_generator
from dpbench.toolkit import release_match, surrogate
from dpbench.toolkit.release_match import study_client


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
        ("conv", ShrunkModel),
        *((layout, model) for layout in HEADS for model in (ProtectedModel, NoisyModel, MaskedModel)),
    ],
)
def test_gradients_that_lead_somewhere_are_followed(layout: str, model: type[ProtectedModel]) -> None:
    seen, _ = observe(model, head=HEADS[layout]())
    for search in (False, True):
        match = study_client(seen, draws=2, generator=derive_generator(CPU, "match"), search=search)
        assert match.surrogate is None, seen.notes


@pytest.mark.parametrize("model", [SparseModel, SparseNoisyModel])
def test_what_a_sparse_release_leaves_out_is_searched_for_too(model: type[ProtectedModel]) -> None:
    seen, _ = observe(model)
    states = []
    for search, words in ((False, []), (True, ["straight-through gradient (halting)"])):
        generator = derive_generator(CPU, "match")
        match = study_client(seen, draws=2, generator=generator, search=search)
        assert [word for word in seen.notes["fallbacks"] if "gradient" in word] == words
        assert (match.surrogate is not None) == bool(words)
        states.append(generator.get_state())
    assert torch.equal(*states)  # what is drawn later is the same


@pytest.mark.parametrize("model", [SparseModel, SparseNoisyModel])
def test_behind_a_sparse_release_a_search_from_nothing_sees_more(model: type[ProtectedModel]) -> None:
    seen, victims = observe(model)
    everyone, start = torch.arange(len(victims)), torch.full_like(victims, 0.5)
    weight, found = torch.full((len(victims),), 0.1), []
    for search in (False, True):
        generator = derive_generator(CPU, "match")
        match = study_client(seen, draws=2, generator=generator, search=search)
        inverted = PyramidSearch(60, 0.06, lambda _: None).invert(
            match, everyone, start, weight, 0 * weight, "", generator
        )
        found.append(psnr_db(inverted[0], victims))
    assert found[1] > found[0] + 2


class ReshapingModel(ProtectedModel):
    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return features.flatten(1).round()


def test_a_surrogate_is_learned_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surrogate, "STEPS", 60)
    seen, victims = observe(ReshapingModel)
    images = run("rmle", seen)
    assert seen.notes["fallbacks"] == ["gradient of a learned surrogate (vanishing)"]
    assert psnr_db(images, victims) > psnr_db(run("mean-image", seen), victims) + 3


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
