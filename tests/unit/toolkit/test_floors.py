"""Known answers of the floors that look up instead of reconstructing."""

from collections.abc import Callable

import pytest
import torch
from dpbench_attacks.class_mean import ClassMean
from dpbench_attacks.nearest_auxiliary import NearestAuxiliary
from torch import Tensor

from dpbench.contract.attack import Observation
from dpbench.contract.images import LabelledImages

SHAPE = (3, 16, 16)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def observe(auxiliary: LabelledImages, victims: Tensor, query: Callable[[Tensor], Tensor], releases: int = 1):
    first, *again = [query(victims) for _ in range(releases)]
    return Observation(
        released=first,
        again=tuple(again),
        image_shape=SHAPE,
        auxiliary=auxiliary,
        query=query,
        client=None,
        remember=lambda name, train, depends_on: train(generator()),
    )


def pooled(images: Tensor) -> Tensor:
    """Features (N,3,4,4) of very different scale per channel."""
    scale = torch.tensor([1.0, 0.1, 5.0]).view(3, 1, 1)
    return torch.nn.functional.avg_pool2d(images, 4) * scale


@pytest.fixture
def auxiliary() -> LabelledImages:
    labels = torch.arange(600) % 3 * 2  # class 1 has no image
    images = 0.2 * torch.rand(600, *SHAPE, generator=generator()) + 0.2 * labels.view(-1, 1, 1, 1)
    return LabelledImages(images.clamp(0, 1), labels)


def test_the_nearest_auxiliary_image_is_found_in_any_chunk(auxiliary: LabelledImages) -> None:
    chosen = torch.tensor([599, 0, 255, 256, 300] * 60)
    victims = (auxiliary.images[chosen] + 0.002 * torch.randn(300, *SHAPE, generator=generator(1))).clamp(0, 1)
    images = NearestAuxiliary().reconstruct(observe(auxiliary, victims, pooled), generator=generator())
    assert torch.equal(images, auxiliary.images[chosen])


def test_every_channel_counts_whatever_its_scale() -> None:
    """Without standardising, the third channel alone would decide."""
    images = torch.rand(100, *SHAPE, generator=generator())
    victims = images.clone()
    victims[:, 2] = images[:, 2].roll(1, 0)
    auxiliary = LabelledImages(images, torch.zeros(100, dtype=torch.int64))
    found = NearestAuxiliary().reconstruct(observe(auxiliary, victims, pooled), generator=generator())
    assert (found == images).flatten(1).all(1).float().mean() > 0.9


def test_the_class_mean_is_that_of_the_victims_class(auxiliary: LabelledImages) -> None:
    labels = torch.tensor([0, 4, 2, 2])
    victims = 0.1 + 0.2 * labels.view(-1, 1, 1, 1).expand(-1, *SHAPE)
    images = ClassMean().reconstruct(observe(auxiliary, victims.clamp(0, 1), pooled), generator=generator())
    for image, label in zip(images, labels, strict=True):
        torch.testing.assert_close(image, auxiliary.images[auxiliary.labels == label].mean(0))


def test_further_releases_are_averaged() -> None:
    noise, images = generator(3), torch.rand(300, *SHAPE, generator=generator())
    auxiliary = LabelledImages(images, torch.zeros(300, dtype=torch.int64))

    def noisy(images: Tensor) -> Tensor:
        features = torch.nn.functional.avg_pool2d(images, 4)
        return features + 0.07 * torch.randn(features.shape, generator=noise)

    def hits(releases: int) -> float:
        found = NearestAuxiliary().reconstruct(observe(auxiliary, images, noisy, releases), generator=generator())
        return float((found == images).flatten(1).all(1).float().mean())

    assert hits(16) > hits(1) + 0.1
