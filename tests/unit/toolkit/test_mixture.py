"""Few noise tensors, few secret rotations: what it takes to undo them."""

import dataclasses

import piq
import pytest
import torch
from dpbench_attacks.decoder import Decoder
from dpbench_attacks.mixture import Unmixing, clusters
from tiny_observation import observed
from torch import Tensor

from dpbench.contract.attack import Observation
from dpbench.contract.defense import ProtectedModel, SplitModel
from dpbench.machine.randomness import derive_generator
from dpbench.testing.tiny import CHANNELS, CPU, smooth

DECODER = {"steps": 60, "width": 32, "blocks": 1, "batch_size": 32}
SMALL = {"repeats": 32, "stations": 6, "stops": 4} | {f"decoder_{name}": value for name, value in DECODER.items()}
COUNT = 4


class NoiseTensors(ProtectedModel):
    """One of four tensors, ten times as strong as the features, is added."""

    tensors: Tensor

    def __init__(self, split: SplitModel) -> None:
        super().__init__(split)
        self.register_buffer("tensors", 5 * torch.randn(COUNT, CHANNELS, 8, 8, generator=derive_generator(CPU, "few")))

    def drawn(self, count: int, generator: torch.Generator | None) -> Tensor:
        return torch.randint(COUNT, (count,), generator=generator)

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return features + self.tensors[self.drawn(len(features), generator)]


class Rotations(ProtectedModel):
    """The channels are mixed in one of four ways."""

    matrices: Tensor

    def __init__(self, split: SplitModel) -> None:
        super().__init__(split)
        drawn = torch.randn(COUNT, CHANNELS, CHANNELS, generator=derive_generator(CPU, "rotations"))
        self.register_buffer("matrices", torch.linalg.qr(drawn).Q)

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        chosen = self.matrices[torch.randint(COUNT, (len(features),), generator=generator)]
        return (features.flatten(2).transpose(1, 2) @ chosen).transpose(1, 2).reshape(features.shape)


class Noisy(ProtectedModel):
    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return features + torch.randn(features.shape, generator=generator)


def observe(model: type[ProtectedModel]) -> tuple[Observation, Tensor]:
    victims = smooth(6, seed="victims")
    return observed(model, victims, smooth(320, seed="auxiliary"), white_box=False), victims


def psnr_db(attack: Decoder | Unmixing, seen: Observation, victims: Tensor) -> float:
    images = attack.reconstruct(seen, generator=derive_generator(CPU, "attack"))
    return float(piq.psnr(images, victims))


@pytest.mark.parametrize(("model", "rotated"), [(NoiseTensors, False), (Rotations, True)])
def test_what_is_drawn_from_a_few_is_found_and_undone(model: type[ProtectedModel], rotated: bool) -> None:
    seen, victims = observe(model)
    found = psnr_db(Unmixing(**SMALL), seen, victims)
    assert (seen.notes["components"], seen.notes["rotated"]) == (COUNT, rotated)
    alone = psnr_db(Decoder(**DECODER), dataclasses.replace(seen, notes={}), victims)
    print(found, alone)
    assert found > alone + 2


@pytest.mark.parametrize("model", [ProtectedModel, Noisy])
def test_one_component_is_left_as_it_is(model: type[ProtectedModel]) -> None:
    seen, victims = observe(model)
    psnr_db(Unmixing(**SMALL), seen, victims)
    assert seen.notes["components"] == 1


def test_groups_of_rows_are_told_apart() -> None:
    generator = derive_generator(CPU, "groups")
    centres = 9 * torch.randn(3, 200, generator=generator)
    rows = centres[torch.arange(30) % 3] + torch.randn(30, 200, generator=generator)
    found = clusters(rows)
    assert found.shape == (3, 200)
    assert torch.cdist(found, centres).min(1).values.max() < 9
    assert len(clusters(torch.randn(30, 200, generator=generator))) == 1
    assert len(clusters(torch.ones(30, 200))) == 1
