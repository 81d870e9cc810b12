"""Neither images nor queries: what image and substitute together make of a release."""

from __future__ import annotations

from dataclasses import replace

import piq
import pytest
import torch
from dpbench_attacks.unsplit import UnSplit
from tiny_observation import Way, observed
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
        ("resnet10t", r"gives features .*\(64, 4, 4\), .*what was released is"),
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


def undoing(order: Tensor, shape: tuple[int, ...]) -> Way:
    """A server that puts values in order, or a code in the shape that it stands for, before it goes on."""

    def restored(released: Tensor) -> Tensor:
        return released.flatten(1)[:, order].unflatten(1, shape)

    return Way(
        restored, lambda released: restored(released).relu(), lambda released: restored(released).flatten(1)[:, :2]
    )


def test_whoever_holds_the_server_sees_the_order_that_it_restores() -> None:
    seen, _ = heard_alone()
    shape = tuple(seen.released.shape[1:])
    order = torch.randperm(seen.released[0].numel(), generator=torch.Generator().manual_seed(0))
    server = undoing(order.argsort(), shape)
    attack = UnSplit(rounds=1, substitutes=1, image_steps=2, model_steps=2, heard=0)

    def images(seen: Observation) -> Tensor:
        return attack.reconstruct(seen, generator=derive_generator(CPU, "attack"))

    secret = replace(seen, released=seen.released.flatten(1)[:, order].unflatten(1, shape))
    assert torch.equal(images(replace(secret, server=server)), images(seen))
    assert "tap 1 of 3" in secret.notes["view"]
    open_ = replace(seen, server=undoing(torch.arange(len(order)), shape))
    assert torch.equal(images(open_), images(seen))
    assert open_.notes["view"] == "release"


def test_of_a_code_the_features_are_explained_that_the_server_makes_of_it() -> None:
    seen, _ = heard_alone()
    features = torch.randn(2, 64, 4, 4).abs()
    attack = UnSplit(architecture="resnet10t", rounds=1, substitutes=1, image_steps=2, model_steps=2)
    server = undoing(torch.arange(1024), (64, 4, 4))
    coded = replace(seen, released=features.flatten(1), overheard=None, server=server)
    plain = replace(seen, released=features, overheard=None)
    assert torch.equal(*(attack.reconstruct(s, generator=derive_generator(CPU, "attack")) for s in (coded, plain)))
    with pytest.raises(DpbenchError, match="what was released is"):
        attack.reconstruct(replace(coded, server=None), generator=derive_generator(CPU, "attack"))


def test_behind_a_shallow_split_it_beats_the_mean_image() -> None:
    seen, victims = heard_alone()
    images = UnSplit(rounds=3, substitutes=2).reconstruct(seen, generator=derive_generator(CPU, "attack"))
    mean = seen.auxiliary.images[:].mean(0, keepdim=True).expand_as(victims).contiguous()
    assert float(piq.psnr(images, victims)) > float(piq.psnr(mean, victims)) + 2
    assert seen.notes["converged"] is True
