"""One contract for every registered attack; what a decoder knows of itself, and what further releases give."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import pytest
import torch
from attacked_clients import (
    CPU,
    TINY,
    VICTIMS,
    LoudModel,
    MaskedModel,
    MixedModel,
    NoisyModel,
    PrunedModel,
    Silent,
    check_images,
    observe,
    psnr_db,
    run,
)
from dpbench_attacks.decoder import Decoder
from dpbench_attacks.rmle import RegularisedMaximumLikelihood
from dpbench_defenses._dpm_training import RECONSTRUCTORS
from torch import Tensor

from dpbench.contract.defense import ProtectedModel
from dpbench.errors import DpbenchError
from dpbench.machine.randomness import derive_generator
from dpbench.plugins.configuring import configure
from dpbench.plugins.registry import attacks
from dpbench.testing import Check, checks_for
from dpbench.toolkit.inverse_network import ResidualBlock
from dpbench.toolkit.inversion import pooled, victim_releases
from dpbench.toolkit.release_match import study_client


def contract() -> list[Any]:
    """Every rule of every registered attack."""
    checks = [
        (name, check) for name, cls in attacks().items() for check in checks_for(configure(cls, TINY.get(name, {})))
    ]
    return [pytest.param(check, id=f"{name}-{check.__name__}") for name, check in checks]


@pytest.mark.parametrize("check", contract())
def test_contract(check: Check) -> None:
    check()


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


@pytest.mark.parametrize("name", ["rmle", "gan", "gan-faces", "decoder"])
def test_directions_of_tiny_variance_hide_nothing(name: str) -> None:
    seen, victims = observe(MixedModel)
    assert psnr_db(run(name, seen), victims) > psnr_db(run("mean-image", seen), victims) + 3


@pytest.mark.parametrize("name", sorted(name for name, cls in attacks().items() if not cls.floor))
def test_values_that_never_vary_break_no_attack(name: str) -> None:
    seen, _ = observe(PrunedModel)
    check_images(run(name, seen), seen)


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


def test_many_victims_go_in_chunks() -> None:
    seen, _ = observe()
    seen = dataclasses.replace(seen, auxiliary=seen.auxiliary.at_most(4))
    attack = RegularisedMaximumLikelihood(steps=2, decoder_steps=2, decoder_width=16, decoder_blocks=1)
    check_images(attack.reconstruct(seen, generator=derive_generator(CPU, "attack")), seen)
