"""The linear map beside the convolutions: fitted, judged on other images, bounded."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dpbench.machine.randomness import derive_generator
from dpbench.toolkit.linear_inverse import MOST_VALUES, LinearInverse

CPU = torch.device("cpu")


def images(count: int, side: int = 8) -> Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=derive_generator(CPU, "images"))
    return functional.interpolate(coarse, (side, side), mode="bilinear")


def loss(small: Tensor, true: Tensor) -> Tensor:
    return (small - functional.adaptive_avg_pool2d(true, small.shape[2:])).abs().mean()


def mixed(some: Tensor) -> Tensor:
    """Every value a mixture of all pixels, on scales from 1e-6 to 1e6."""
    flat = some.flatten(1)
    mixture = torch.randn(flat.shape[1], 96, generator=derive_generator(CPU, "mixture"))
    return (flat @ mixture) * torch.logspace(-6, 6, 96) + 5


def test_images_are_read_from_any_mixture_of_their_pixels() -> None:
    everyone = images(400)
    known, left_out, test = everyone[:300], everyone[300:350], everyone[350:]
    linear = LinearInverse((96,), (3, 8, 8))
    error = linear.fit(mixed, known.split(64), left_out, loss)
    assert error == pytest.approx(float(loss(linear(mixed(left_out)), left_out)), rel=1e-3)
    assert loss(linear(mixed(test)), test) < 0.2 * loss(everyone.mean(0, keepdim=True).expand_as(test), test)


def test_large_releases_and_images_are_bounded() -> None:
    everyone = images(48, side=64)
    linear = LinearInverse((3, 100, 100), (3, 64, 64))

    def query(some: Tensor) -> Tensor:
        return functional.interpolate(some, (100, 100))

    linear.fit(query, everyone[:40].split(16), everyone[40:], loss)
    given = linear(query(everyone))
    assert linear.matrix.shape[0] <= MOST_VALUES
    assert given.shape == (48, *linear.small_shape) == (48, 3, 32, 32)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_releases_that_are_all_the_same_say_nothing(value: float) -> None:
    linear = LinearInverse((5,), (3, 8, 8))

    def query(some: Tensor) -> Tensor:
        return torch.full((len(some), 5), value)

    assert linear.fit(query, images(20).split(20), images(8), loss) == torch.inf
    assert linear(query(images(2))).isfinite().all()


def test_autocast_does_not_round_it() -> None:
    linear = LinearInverse((96,), (3, 8, 8))
    linear.fit(mixed, images(100).split(50), images(20), loss)
    released = mixed(images(4))
    plain = linear(released)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(linear(released), plain)
