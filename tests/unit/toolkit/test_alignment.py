"""A secret orthogonal map of the channels is found from features of other images alone."""

import piq
import pytest
import torch
from dpbench_attacks._alignment import map_without_pairs, procrustes
from dpbench_attacks.decoder import Decoder
from dpbench_attacks.mixture import Unmixing
from dpbench_defenses.rotate import Rotation
from torch import Tensor, nn

from dpbench.contract.attack import Observation
from dpbench.contract.defense import SplitModel
from dpbench.contract.images import LabelledImages
from dpbench.data.embedded import leaves
from dpbench.machine.randomness import derive_generator
from dpbench.testing.attacks import Shelf
from dpbench.testing.tiny import CPU, Permuted, Tokens

SIDE = (16, 16)
CHANNELS = 24
LAYOUTS = {"maps": (nn.Identity(), 1), "channels last": (Permuted(0, 2, 3, 1), 3), "tokens": (Tokens(), 2)}
DECODER = {"steps": 150, "width": 32, "blocks": 1, "batch_size": 32}


def natural(first: int, count: int, side: int = SIDE[0]) -> Tensor:
    """Embedded images that look the same neither upside down nor in other colours, (count,3,side,side)."""
    drawn, _ = leaves.draw(0, range(first, first + count), side)
    return torch.from_numpy(drawn).float() / 255


@torch.no_grad()
def features(images: Tensor) -> Tensor:
    """What two convolutions make of images, (N,24,H/2,W/2)."""
    first, second = nn.Conv2d(3, CHANNELS, 3, 2, padding=1), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
    for layer in (first, second):
        nn.init.kaiming_normal_(layer.weight, generator=derive_generator(CPU, "head", layer.in_channels))
        nn.init.zeros_(layer.bias)
    return second(first(images * 2 - 1).relu()).relu()


def turned(count: int = CHANNELS) -> Tensor:
    return torch.linalg.qr(torch.randn(count, count, generator=derive_generator(CPU, "turned"))).Q


def times(maps: Tensor, matrix: Tensor, axis: int) -> Tensor:
    return (maps.movedim(axis, -1) @ matrix).movedim(-1, axis)


def missing(found: Tensor, true: Tensor) -> float:
    """Share of the variance that is not got back."""
    return float((found - true).square().mean() / true.var())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("victims", [16, 100])
def test_a_secret_rotation_is_undone_without_a_pair(layout: str, victims: int) -> None:
    laid, axis = LAYOUTS[layout]
    true, known = laid(features(natural(0, victims))), laid(features(natural(1000, 400)))
    released = times(true, turned(), axis) + 0.5
    found = map_without_pairs(released, known, SIDE, generator=derive_generator(CPU, "search"))
    assert missing(released, true) > 1
    assert found is not None
    assert missing(found(released), true) < 0.05


def test_the_same_seed_finds_the_same_map() -> None:
    released, known = times(features(natural(0, 32)), turned(), 1), features(natural(1000, 200))
    one, other = (map_without_pairs(released, known, SIDE, generator=derive_generator(CPU, "search")) for _ in range(2))
    assert one is not None
    assert other is not None
    assert torch.equal(one.matrix, other.matrix)


def hidden(how: str, true: Tensor) -> Tensor:
    draws = derive_generator(CPU, "hidden")
    if how == "nothing":
        return true
    if how == "noise":
        return true + true.std() * torch.randn(true.shape, generator=draws)
    if how == "zeros":
        return torch.zeros_like(true)
    if how == "not a number":
        return times(true, turned(), 1) * torch.tensor(torch.nan)
    if how == "dropout":
        return true * (torch.rand(true.shape, generator=draws) < 0.5) * 2
    assert how == "all values"
    every = turned(true[0].numel())
    return (true.flatten(1) @ every).view_as(true)


@pytest.mark.parametrize("how", ["nothing", "noise", "zeros", "not a number", "dropout", "all values"])
def test_what_no_rotation_of_channels_did_is_left_alone(how: str) -> None:
    released, known = hidden(how, features(natural(0, 64))), features(natural(1000, 200))
    assert map_without_pairs(released, known, SIDE, generator=derive_generator(CPU, "search")) is None


def test_other_shapes_too_few_images_and_no_grid_are_left_alone() -> None:
    known = features(natural(1000, 64))
    generator = derive_generator(CPU, "search")
    few = times(features(natural(0, 5)), turned(), 1)
    assert map_without_pairs(few, known, SIDE, generator=generator) is None
    assert map_without_pairs(known[:, :8], known, SIDE, generator=generator) is None
    assert map_without_pairs(known.flatten(1), known.flatten(1), SIDE, generator=generator) is None
    assert map_without_pairs(known, torch.zeros_like(known), SIDE, generator=generator) is None


def test_pairs_give_the_map_at_once() -> None:
    rows = torch.randn(50, CHANNELS, generator=derive_generator(CPU, "rows"))
    found = procrustes(rows @ turned() + 2, rows)
    assert torch.allclose(found(rows @ turned() + 2), rows, atol=1e-4)


@pytest.mark.parametrize("secret", [True, False])
def test_who_knows_the_undefended_client_alone_undoes_a_secret_rotation(secret: bool) -> None:
    victims, own = natural(0, 24), natural(1000, 320)
    released = times(features(victims), turned(), 1) if secret else features(victims)
    seen = Observation(
        released=released,
        again=(released,),
        image_shape=(3, *SIDE),
        auxiliary=LabelledImages(own, torch.zeros(len(own), dtype=torch.int64)),
        query=features,
        client=None,
        remember=Shelf().remember,
        adaptive=False,
    )

    def psnr_db(attack: Decoder | Unmixing) -> float:
        return float(piq.psnr(attack.reconstruct(seen, generator=derive_generator(CPU, "attack")), victims))

    alone = psnr_db(Decoder(**DECODER))
    found = psnr_db(Unmixing(**{f"decoder_{name}": value for name, value in DECODER.items()}))
    assert seen.notes["rotated"] is secret
    assert found > alone + 4 if secret else found == alone, (found, alone)


class Head(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return features(images)


def test_the_registered_rotation_of_large_features_mixes_channels_alone_and_is_undone() -> None:
    images, own = natural(0, 32, 64), natural(1000, 100, 64)
    split = SplitModel(Head(), nn.Identity(), split_point="head", image_shape=(3, 64, 64), classes=2)
    defense = Rotation(block=4096)
    client = defense.build(split)
    private = LabelledImages(own, torch.zeros(len(own), dtype=torch.int64))
    defense.fit(client, private, generator=derive_generator(CPU, "key"), progress=lambda text: None)
    released, true = client.release(images), features(images)
    found = map_without_pairs(released, features(own), (64, 64), generator=derive_generator(CPU, "search"))
    assert found is not None
    assert missing(found(released), true) < 0.05 < missing(released, true)
