"""The attackers that defenses which train call for: each sees more than one who does not know the defense."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import piq
import pytest
import torch
from dpbench_attacks.decoder import Decoder
from dpbench_attacks.mixture import Unmixing
from tiny_observation import observed
from torch import Tensor
from trained import fitted, undefended

from dpbench.contract.attack import Attack, Observation
from dpbench.machine.randomness import derive_generator
from dpbench.testing.tiny import CPU, smooth

STEPS = {"steps": 50, "width": 24, "blocks": 1, "batch_size": 32}
PARTS = {f"decoder_{name}": value for name, value in STEPS.items()}


def ssim(attack: Attack, seen: Observation, victims: Tensor) -> float:
    images = attack.reconstruct(seen, generator=derive_generator(CPU, "attack"))
    return float(piq.ssim(images, victims, data_range=1.0, downsample=False))


def with_mask(features: Tensor) -> Tensor:
    """Released maps beside which of their channels are there."""
    return torch.cat([features, (features != 0).flatten(2).any(2)[:, :, None, None].expand_as(features).float()], 1)


Adaption = Callable[[Observation, Tensor], Observation]


def unchanged(seen: Observation, victims: Tensor) -> Observation:
    return seen


def mask_aware(seen: Observation, victims: Tensor) -> Observation:
    query = seen.granted_query()
    return replace(seen, released=with_mask(seen.released), query=lambda images: with_mask(query(images)), client=None)


def averaging(seen: Observation, victims: Tensor) -> Observation:
    """The victims release seven times more: draws average out."""
    return replace(seen, again=tuple(seen.granted_query()(victims) for _ in range(7)))


UNMIXING = Unmixing(repeats=32, stations=6, stops=4, **PARTS)
ADAPTED: dict[str, tuple[Attack, Adaption]] = {
    "nopeek": (Decoder(**STEPS), unchanged),
    "adversarial": (Decoder(**STEPS), unchanged),
    "adversarial ressfl": (Decoder(**STEPS), unchanged),
    "adversarial patrol": (Decoder(**STEPS), unchanged),
    "siamese": (Decoder(**STEPS), unchanged),
    "siftfunnel": (Decoder(**STEPS), unchanged),
    "shredder": (UNMIXING, unchanged),
    "disco": (Decoder(**STEPS), mask_aware),
    "vib": (Decoder(**STEPS), unchanged),
    "cem": (Decoder(**STEPS), averaging),
    "cloak": (Decoder(**STEPS), averaging),
}
STRONG: dict[str, dict[str, Any]] = {
    "nopeek": {"strength": 30, "learning_rate": 0.01},
    "adversarial": {"strength": 5, "learning_rate": 0.01},
    "adversarial ressfl": {"objective": "ressfl", "strength": 5, "learning_rate": 0.01},
    "adversarial patrol": {"objective": "patrol", "strength": 5, "learning_rate": 0.01},
    "siamese": {"strength": 10, "learning_rate": 0.01},
    "siftfunnel": {"strength": 30, "learning_rate": 0.01},
    "shredder": {"scale": 5, "tensors": 4},
    "disco": {"share": 0.5},
    "vib": {"strength": 10},
    "cem": {"sigma": 1.0},
    "cloak": {"strength": 10, "epochs": 10},
}
VICTIMS, AUXILIARY = smooth(6, seed="victims"), smooth(120, seed="auxiliary")


@functools.cache
def unaware() -> Observation:
    """What an attacker sees who prepares on the undefended client; it prepares once."""
    return observed(lambda split: undefended(), VICTIMS, AUXILIARY, white_box=False)


@pytest.mark.parametrize("name", ADAPTED)
def test_the_attacker_that_the_mechanism_calls_for_bites(name: str) -> None:
    """It sees more than one who prepared on the undefended client and has as many releases, and than the mean image."""
    model = fitted(name.split(" ")[0], **STRONG[name])
    seen = observed(lambda split: model, VICTIMS, AUXILIARY)
    attack, adapted = ADAPTED[name]
    shown = adapted(seen, VICTIMS)
    found = ssim(attack, shown, VICTIMS)
    naive = ssim(Decoder(**STEPS), replace(unaware(), released=seen.released, again=shown.again), VICTIMS)
    mean = AUXILIARY.mean(0, keepdim=True).expand_as(VICTIMS)
    floor = float(piq.ssim(mean, VICTIMS, data_range=1.0, downsample=False))
    print(f"{name}: {found:.3f}, unaware {naive:.3f}, mean image {floor:.3f}")
    assert found > max(naive, floor) + 0.02
