"""Neither images nor queries: what image and substitute together make of a release."""

from __future__ import annotations

from dataclasses import replace

import piq
import pytest
import torch
from dpbench_attacks.unsplit import UnSplit
from tiny_observation import observed
from torch import Tensor

from dpbench.contract.attack import Observation
from dpbench.contract.defense import ProtectedModel
from dpbench.errors import DpbenchError
from dpbench.machine.randomness import derive_generator
from dpbench.testing.tiny import CPU, pictures


def grey(count: int, *, seed: str) -> Tensor:
    return pictures(count, seed=seed).images.mean(1, keepdim=True).expand(-1, 3, -1, -1).clone()


def heard_alone() -> tuple[Observation, Tensor]:
    victims = grey(12, seed="victims")
    seen = observed(ProtectedModel, victims, grey(128, seed="auxiliary"))
    return replace(seen, overheard=seen.granted_query()(grey(32, seed="others")), query=None, client=None), victims


def test_of_an_architecture_that_gives_other_features_it_says_so() -> None:
    seen, _ = heard_alone()
    for architecture, message in (
        ("resnet10t:", "a timm model and its split point"),
        (":layer1", "a timm model and its split point"),
        ("mine.py:Net:layer1", "a timm model and its split point"),
        ("resnet10t:layer1", r"gives features \(64, 4, 4\), what was released is"),
        ("resnet10t", r"at its stages features .*\(64, 4, 4\) \(layer1\), .*what was released is"),
    ):
        with pytest.raises(DpbenchError, match=message):
            UnSplit(architecture=architecture).reconstruct(seen, generator=derive_generator(CPU, "attack"))


def test_it_takes_the_clients_architecture() -> None:
    seen, _ = heard_alone()
    seen = replace(seen, released=torch.randn(2, 64, 4, 4).abs(), overheard=None)
    attack = UnSplit(architecture="resnet10t:layer1", rounds=1, substitutes=1, image_steps=2, model_steps=2)
    images = attack.reconstruct(seen, generator=derive_generator(CPU, "attack"))
    assert torch.equal(images, attack.reconstruct(seen, generator=derive_generator(CPU, "attack")))
    assert images.shape == (2, 3, 16, 16)


def test_of_a_model_alone_the_stage_is_taken_that_gives_the_released_shape() -> None:
    seen, _ = heard_alone()
    for shape, point in (((64, 4, 4), "layer1"), ((128, 2, 2), "layer2")):
        seen = replace(seen, released=torch.randn(2, *shape).abs(), overheard=None)
        told, found = (
            UnSplit(architecture=architecture, rounds=1, substitutes=1, image_steps=2, model_steps=2).reconstruct(
                seen, generator=derive_generator(CPU, "attack")
            )
            for architecture in (f"resnet10t:{point}", "resnet10t")
        )
        assert torch.equal(told, found)


def test_behind_a_shallow_split_it_beats_the_mean_image() -> None:
    seen, victims = heard_alone()
    images = UnSplit(rounds=3, substitutes=2).reconstruct(seen, generator=derive_generator(CPU, "attack"))
    mean = seen.auxiliary.images[:].mean(0, keepdim=True).expand_as(victims).contiguous()
    assert float(piq.psnr(images, victims)) > float(piq.psnr(mean, victims)) + 2
    assert seen.notes["converged"] is True
