"""The attackers that simple defenses call for: each bites where a static one does not."""

from __future__ import annotations

import functools
from dataclasses import replace

import piq
import pytest
import torch
from defended import defended
from torch import Tensor

from dpbench.cells.white_box import WhiteBox
from dpbench.contract.attack import Observation
from dpbench.contract.defense import ProtectedModel
from dpbench.contract.images import LabelledImages
from dpbench.machine.randomness import derive_generator
from dpbench.plugins.configuring import configure
from dpbench.plugins.registry import attacks
from dpbench.protocols.sharing.pipeline import Mixing, groups_of, mean_of_groups
from dpbench.service.taps import TappedServer
from dpbench.testing.attacks import Shelf
from dpbench.testing.tiny import CPU, pictures, smooth

DECODER = {"steps": 96, "width": 32, "blocks": 1, "batch_size": 32}


REORDER = {"steps": 50, "width": 32, "batch_size": 16, "learning_rate": 0.005} | {
    f"decoder_{name}": value for name, value in (DECODER | {"steps": 80}).items()
}


VICTIMS, AUXILIARY = smooth(6, seed="victims"), smooth(320, seed="auxiliary")


STATIC = Shelf()
"""What attackers learn who know the undefended client alone: the same, whatever they attack."""


def seen_by(
    model: ProtectedModel,
    victims: Tensor = VICTIMS,
    auxiliary: Tensor = AUXILIARY,
    *,
    known: ProtectedModel | None = None,
    server: bool = True,
) -> Observation:
    """What an attacker sees of the victims' releases; one who knows another client than it attacks is static."""
    client = known or model
    draws = derive_generator(CPU, "queries")

    @torch.no_grad()
    def query(images: Tensor) -> Tensor:
        return client.release(images, generator=draws)

    with torch.no_grad():
        released = model.release(victims, generator=derive_generator(CPU, "victims"))
    return Observation(
        released=released,
        image_shape=(3, 16, 16),
        auxiliary=LabelledImages(auxiliary, torch.zeros(len(auxiliary), dtype=torch.int64)),
        query=query,
        client=WhiteBox(client),
        server=TappedServer(model) if server else None,
        adaptive=known is None,
        remember=(Shelf() if known is None else STATIC).remember,
    )


def ssim(attack: str, seen: Observation, victims: Tensor = VICTIMS, **arguments: float) -> float:
    configured = configure(attacks()[attack], arguments)
    images = configured.reconstruct(seen, generator=derive_generator(CPU, "attack"))
    return float(piq.ssim(images, victims))


@functools.cache
def undefended() -> float:
    return ssim("decoder", seen_by(defended("none")), **DECODER)


@pytest.mark.parametrize(
    ("name", "arguments", "share"),
    [
        ("topk", {"keep": 0.25}, 0.88),  # reads the pattern of survivors
        ("blur", {"sigma": 1.0}, 0.95),  # deconvolves
        ("rotate", {}, 0.95),  # learns the key from pairs
        ("token-drop", {"share": 0.5}, 0.85),  # knows the gaps, and fills them from beside
        ("topk + quantise", {"keep": 0.25, "bits": 4}, 0.85),
    ],
)
def test_an_attacker_who_asks_the_client_bites_where_a_static_one_does_not(
    name: str, arguments: dict[str, float], share: float
) -> None:
    model = defended(name, **arguments)
    adaptive = ssim("decoder", seen_by(model, server=False), **DECODER)
    static = ssim("decoder", seen_by(model, known=defended("none"), server=False), **DECODER)
    assert adaptive > share * undefended()
    assert adaptive > static + 0.05


def test_the_pseudo_inverse_reads_the_components() -> None:
    assert ssim("decoder", seen_by(defended("pca")), **DECODER) > 0.95 * undefended()


def test_an_answer_shows_more_than_nothing() -> None:
    floor = ssim("mean-image", seen_by(defended("none")))
    assert ssim("decoder", seen_by(defended("logits-only")), **DECODER) > floor + 0.05


def landscapes(count: int, seed: str) -> Tensor:
    """Pictures with an up and a left: redder to the right, greener below."""
    slope = torch.linspace(0, 0.9, 16)
    return torch.stack(
        [slope.expand(count, 16, 16), slope[:, None].expand(count, 16, 16), smooth(count, seed=seed)[:, 2]], 1
    )


def test_tokens_go_back_to_their_places() -> None:
    victims, auxiliary = landscapes(6, "victims"), landscapes(128, "auxiliary")
    seen = seen_by(defended("token-shuffle"), victims, auxiliary)
    found = ssim("reorder", seen, victims, **REORDER)
    assert seen.notes["reordered"] is True
    assert float(str(seen.notes["tokens_placed"])) > 0.5
    naive = seen_by(defended("token-shuffle"), victims, auxiliary)
    assert found > ssim("decoder", naive, victims, **DECODER | {"steps": 48}) + 0.1


def test_who_mixes_too_reads_means_of_several_images() -> None:
    """Such means look like means of images: all see them, who learned from means of its own a little better."""
    victims, auxiliary = (pictures(count, seed=part).images[:] for count, part in ((12, "victims"), (320, "auxiliary")))
    one_class = LabelledImages(auxiliary, torch.zeros(len(auxiliary), dtype=torch.int64))
    client = defended("none")
    mixing = Mixing(client, one_class, 4, generator=derive_generator(CPU, "bank")).eval()
    groups = groups_of(torch.zeros(len(victims), dtype=torch.int64), 4, derive_generator(CPU, "groups"))
    with torch.no_grad():
        shared = mean_of_groups(client.release(victims), groups)
    aware, unaware = (
        ssim("decoder", replace(seen_by(one, victims, auxiliary), released=shared), victims, **DECODER)
        for one in (mixing, client)
    )
    floor = float(piq.ssim(auxiliary.mean(0, keepdim=True).expand_as(victims), victims))
    assert aware > unaware + 0.015
    assert unaware > floor + 0.2
