"""Blends of inversions: how they are weighed, and that they beat what they are made of where releases are noisy."""

import dataclasses

import piq
import pytest
import torch
from dpbench_attacks.decoder import Decoder
from dpbench_attacks.fuse import START, Fusion, _picked
from dpbench_attacks.rmle import RegularisedMaximumLikelihood
from tiny_observation import observed
from torch import Tensor

from dpbench.contract.attack import Attack, Observation
from dpbench.contract.defense import ProtectedModel
from dpbench.machine.randomness import derive_generator
from dpbench.testing.tiny import CPU, smooth

DECODER = {"steps": 40, "width": 32, "blocks": 1, "batch_size": 32}
SEARCH = {"steps": 40} | {f"decoder_{name}": value for name, value in DECODER.items()}
FUSE = SEARCH | {"held_out": 8, "trials": 4, "finalists": 2, "nearness": (10.0, 100.0), "total_variation": (0.1, 4.0)}


class Loud(ProtectedModel):
    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return features + 0.8 * torch.randn(features.shape, generator=generator)


def observe(model: type[ProtectedModel]) -> tuple[Observation, Tensor]:
    victims = smooth(8, seed="victims")
    seen = observed(model, victims, smooth(320, seed="auxiliary"))
    return dataclasses.replace(seen, undefended=seen.client), victims


def psnr_db(attack: Attack, seen: Observation, victims: Tensor) -> float:
    seen = dataclasses.replace(seen, notes={})
    return float(piq.psnr(attack.reconstruct(seen, generator=derive_generator(CPU, "attack")), victims))


def test_a_blend_beats_its_parts_where_releases_are_noisy() -> None:
    seen, victims = observe(Loud)
    parts = [psnr_db(Decoder(**DECODER), seen, victims), psnr_db(RegularisedMaximumLikelihood(**SEARCH), seen, victims)]
    assert psnr_db(Fusion(**FUSE), seen, victims) > max(parts)


def test_it_keeps_the_start_where_every_search_only_harms() -> None:
    seen, victims = observe(Loud)
    only = Fusion(**(FUSE | {"nearness": 0.0, "total_variation": 0.0, "steps": 20}))
    found = only.reconstruct(seen, generator=derive_generator(CPU, "attack"))
    assert seen.notes["blends"][0]["start"] > 0.5  # type: ignore[index]
    assert float(piq.psnr(found, victims)) > 14
    assert seen.notes["converged"] is True


@pytest.mark.parametrize(
    ("errors", "weights"),
    [
        ({"a": 0.2, "b": 0.2}, {"a": 0.5, "b": 0.5}),  # independent ones are averaged
        ({"a": 0.02, "b": 0.9}, {"a": 1.0}),
        ({"a": 0.0, "b": 0.3, START: 0.3}, {"a": 1.0}),
    ],
)
def test_weights_follow_what_the_attacker_knows(errors: dict[object, float], weights: dict[object, float]) -> None:
    truth = smooth(16, seed="truth")
    library = {
        name: truth + error * torch.randn(truth.shape, generator=derive_generator(CPU, str(name)))
        for name, error in errors.items()
    }
    found = _picked(library, truth)  # type: ignore[arg-type]
    assert sum(found.values()) == pytest.approx(1)
    assert found == pytest.approx(weights, abs=0.11)
