"""A stated noise is believed only where releases bear it out."""

import pytest
import torch
from dpbench_defenses.laplace import laplace_noise
from torch import Tensor, nn

from dpbench.border.claims import refuted
from dpbench.contract.defense import AdditiveNoise, ProtectedModel, SplitModel

SHAPE = (3, 8, 8)
GAUSSIAN = AdditiveNoise("gaussian", 0.5)
LAPLACE = AdditiveNoise("laplace", 0.5)


class Adds(ProtectedModel):
    """Pixels and any noise: `draw(features, generator)`."""

    def __init__(self, draw):
        super().__init__(SplitModel(nn.Identity(), nn.Flatten(), split_point="x", image_shape=SHAPE, classes=2))
        self.draw = draw

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return features + self.draw(features, generator)


def normal(features: Tensor, generator: torch.Generator) -> Tensor:
    return 0.5 * torch.randn(features.shape, generator=generator)


def laplace(features: Tensor, generator: torch.Generator) -> Tensor:
    return 0.5 * laplace_noise(features.shape, generator=generator, device=features.device)


def reason(draw, noise: AdditiveNoise = GAUSSIAN, seed: int = 0, images: int = 16) -> str:
    random = torch.Generator().manual_seed(seed)
    return refuted(Adds(draw), noise, torch.rand(images, *SHAPE, generator=random), random)


@pytest.mark.parametrize("images", [1, 3, 16])
@pytest.mark.parametrize(("draw", "noise"), [(normal, GAUSSIAN), (laplace, LAPLACE)])
def test_true_claims_are_borne_out_whatever_the_seed(draw, noise, images):
    assert not any(reason(draw, noise, seed, images) for seed in range(25))


def of_batch(features, generator):
    return normal(features[:1], generator).expand_as(features)


def of_image(features, generator):
    return 0.5 * torch.randn(len(features), 1, 1, 1, generator=generator).expand_as(features)


def in_pairs(features, generator):
    half = normal(features[..., :4], generator)
    return torch.cat([half, half], dim=3)


def fixed(features, generator):
    return normal(features, torch.Generator().manual_seed(3))


def by_image(features, generator):
    """The same noise for the same image, whatever the generator."""
    seeds = (features.flatten(1).sum(1) * 1e4).long().tolist()
    return torch.cat(
        [normal(row[None], torch.Generator().manual_seed(seed)) for row, seed in zip(features, seeds, strict=True)]
    )


def half_the_places(features, generator):
    return normal(features, generator) * 2**0.5 * (torch.arange(8) % 2)


def by_size(features, generator):
    return normal(features, generator) * features / features.square().mean().sqrt()


def by_brightness(features, generator):
    order = torch.arange(len(features)).view(-1, 1, 1, 1) % 2
    return normal(features, generator) * torch.where(order == 0, 0.5, 1.75**0.5)


def uniform(features, generator):
    return (torch.rand(features.shape, generator=generator) - 0.5) * 12**0.5 * 0.5


def two_values(features, generator):
    return normal(features, generator).sign() * 0.5


LIES = {
    "too small": lambda f, g: normal(f, g) / 50,
    "too large": lambda f, g: normal(f, g) * 1.2,
    "none": lambda f, g: torch.zeros_like(f),
    "a shift": lambda f, g: normal(f, g) + 0.05,
    "a pattern": lambda f, g: 0.9 * normal(f, g) + 0.218 * (torch.arange(8) % 2 * 2 - 1),
    "one for a batch": of_batch,
    "one for an image": of_image,
    "in pairs": in_pairs,
    "the same at every release": fixed,
    "the same for an image": by_image,
    "at half the places": half_the_places,
    "by the size of values": by_size,
    "by the image": by_brightness,
    "uniform": uniform,
    "two values": two_values,
    "laplace for gaussian": lambda f, g: laplace(f, g) / 2**0.5,
    "infinite": lambda f, g: normal(f, g) / 0,
}


@pytest.mark.parametrize("lie", LIES)
def test_false_claims_are_refuted(lie):
    assert reason(LIES[lie])


def test_gaussian_noise_is_not_taken_for_laplace():
    assert "not laplace" in reason(lambda f, g: normal(f, g) * 2**0.5, LAPLACE)
