"""Tokens in another order each time: what it takes to see through them."""

import dataclasses

import piq
import pytest
import torch
from dpbench_attacks.decoder import Decoder
from dpbench_attacks.reorder import Reordering
from dpbench_attacks.rmle import RegularisedMaximumLikelihood
from tiny_observation import observed
from torch import Tensor

from dpbench.contract.attack import Attack, Observation
from dpbench.contract.defense import ProtectedModel
from dpbench.machine.randomness import derive_generator
from dpbench.testing.tiny import CPU, smooth

TINY = {"steps": 200, "width": 32, "batch_size": 16, "learning_rate": 0.005}
DECODER = {"steps": 150, "width": 32, "blocks": 1, "batch_size": 32}
SMALL = TINY | {f"decoder_{name}": value for name, value in DECODER.items()}


def landscapes(count: int, seed: str) -> Tensor:
    """Pictures with an up and a left, redder to the right and greener below; what they show is blue."""
    images = smooth(count, seed=seed) * torch.tensor([0.05, 0.05, 1.0]).view(3, 1, 1)
    slope = torch.linspace(0, 0.9, images.shape[2])
    images[:, 0] += slope
    images[:, 1] += slope[:, None]
    return images


class Shuffling(ProtectedModel):
    """The positions of every image in an order of its own."""

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        tokens = features.flatten(2)
        order = torch.rand(len(tokens), tokens.shape[2], generator=generator).argsort(1)
        order = order[:, None].expand_as(tokens)
        return tokens.gather(2, order).view_as(features)


class DroppingTokens(ProtectedModel):
    """A quarter of the tokens left out, the others in any order."""

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        order = torch.rand(features.shape[:2], generator=generator).argsort(1)[:, : 3 * features.shape[1] // 4]
        return features.gather(1, order[:, :, None].expand(-1, -1, features.shape[2]))


def observe(model: type[ProtectedModel], layout: str = "maps") -> tuple[Observation, Tensor]:
    victims = landscapes(6, "victims")
    return observed(model, victims, landscapes(320, "auxiliary"), layout=layout), victims


def psnr_db(attack: Attack, seen: Observation, victims: Tensor) -> float:
    images = attack.reconstruct(seen, generator=derive_generator(CPU, "attack"))
    return float(piq.psnr(images, victims))


@pytest.mark.parametrize(("model", "layout"), [(Shuffling, "maps"), (DroppingTokens, "tokens")])
def test_tokens_are_put_back_to_their_places(model: type[ProtectedModel], layout: str) -> None:
    seen, victims = observe(model, layout)
    attack, client = Reordering(**SMALL), seen.granted_client()
    assert attack._shuffles(seen, client)
    _, ordered = attack._in_order(seen, client)
    found = ordered.released
    features = client.features(victims)
    there = found != 0
    assert found.shape == features.shape
    assert seen.notes["tokens_placed"] > 0.9  # type: ignore[operator]
    assert there.float().mean() == pytest.approx(seen.released.numel() / features.numel(), abs=0.05)
    assert (found - features)[there].square().mean() < 0.1 * features.var()


@pytest.mark.parametrize(("model", "layout"), [(Shuffling, "maps"), (DroppingTokens, "tokens")])
def test_a_search_puts_right_what_was_placed_wrong(model: type[ProtectedModel], layout: str) -> None:
    seen, victims = observe(model, layout)
    hasty = SMALL | {"steps": 40}  # places many tokens wrong
    decoded = psnr_db(Reordering(**hasty), seen, victims)
    seen.notes.clear()
    assert psnr_db(Reordering(**hasty, then="rmle", search_steps=80), seen, victims) > decoded + 2
    assert seen.notes["rounds"] > 1  # type: ignore[operator]


def test_a_search_of_what_is_in_order_is_that_of_rmle() -> None:
    seen, victims = observe(ProtectedModel)
    short = {"steps": 60} | {f"decoder_{name}": value for name, value in DECODER.items()}
    own = psnr_db(Reordering(**short, then="rmle", search_steps=20), seen, victims)
    other = RegularisedMaximumLikelihood(**short | {"steps": 20})
    assert own == psnr_db(other, dataclasses.replace(seen, notes={}), victims)
    assert "then" not in Reordering().model_dump(mode="json")


@pytest.mark.parametrize("layout", ["maps", "tokens", "flat"])
def test_what_is_in_order_is_left_so(layout: str) -> None:
    seen, victims = observe(ProtectedModel, layout)
    own = psnr_db(Reordering(**SMALL), seen, victims)
    assert seen.notes["reordered"] is False
    assert own == pytest.approx(psnr_db(Decoder(**DECODER), dataclasses.replace(seen, notes={}), victims))
