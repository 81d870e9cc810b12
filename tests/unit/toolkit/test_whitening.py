"""Whitened features, and releases pooled into one."""

from __future__ import annotations

import pytest
import torch
from attacked_clients import CPU
from torch import Tensor

from dpbench.machine.randomness import derive_generator
from dpbench.toolkit.inversion import Whitening, pooled


def covariance(features: Tensor, axis: int) -> Tensor:
    return torch.cov(features.movedim(axis, -1).flatten(0, -2).T.double())


@pytest.mark.parametrize(("shape", "axis"), [((6, 5, 4), 1), ((5, 5, 6), 3), ((20, 6), 2), ((6,), 1)])
def test_whitened_features_have_unit_covariance(shape: tuple[int, ...], axis: int) -> None:
    generator = derive_generator(CPU, "whitening")
    mixture = torch.randn(6, 6, generator=generator)
    features = (torch.randn(500, *shape, generator=generator).movedim(axis, -1) @ mixture + 3).movedim(-1, axis)
    whitening = Whitening(shape)
    whitening.fit(features, ridge=0)
    white = whitening(features)
    torch.testing.assert_close(covariance(white, axis), torch.eye(6).double(), atol=1e-2, rtol=0)
    torch.testing.assert_close(
        whitening(features[1:3]) - whitening(features[:2]),
        whitening.difference(features[1:3], features[:2]),
        atol=1e-3,
        rtol=1e-3,
    )
    other = Whitening(shape)
    other.load_state_dict(whitening.state_dict())
    assert torch.equal(other(features), white)


def test_whitening_where_there_is_little_to_whiten() -> None:
    generator = derive_generator(CPU, "whitening")
    maps = torch.randn(50, 6, 4, 4, generator=generator)
    maps[:, 2] = 5.0
    dead = Whitening((6, 4, 4))
    dead.fit(maps)
    assert dead(maps).isfinite().all()
    assert dead(maps)[:, 2].abs().max() < 1e-3
    silent = Whitening((6, 4, 4))
    silent.fit(torch.full((50, 6, 4, 4), 0.3))
    assert silent(torch.full((2, 6, 4, 4), 0.3)).abs().max() < 1
    # too many values for a covariance, or too few samples
    for values, images in ((1500, 20), (100, 20)):
        flat = torch.randn(images, values, generator=generator) * 7
        whitening = Whitening((values,))
        whitening.fit(flat)
        torch.testing.assert_close(whitening(flat).std(0, correction=0), torch.ones(values))


def test_whitening_weighs_noisy_directions_less() -> None:
    generator = derive_generator(CPU, "whitening")
    features = torch.randn(500, 2, 4, 4, generator=generator)
    apart = torch.randn(500, 2, 4, 4, generator=generator) * torch.tensor([1.0, 0.01]).view(2, 1, 1)
    whitening = Whitening((2, 4, 4))
    whitening.fit(features, again=features - apart)
    assert whitening.matrix[1, 1] > 2 * whitening.matrix[0, 0]
    assert whitening(features).square().mean() == pytest.approx(1, abs=1e-2)


def test_whitening_in_part_still_sees_tiny_directions() -> None:
    generator = derive_generator(CPU, "whitening")
    features = torch.randn(500, 2, 4, 4, generator=generator)
    features = torch.stack([features[:, 0] + 0.01 * features[:, 1], features[:, 0] - 0.01 * features[:, 1]], 1)
    tiny = torch.tensor([0.01, -0.01]).view(1, 2, 1, 1)
    sizes = {}
    for separate in (0.0, 0.5, 1.0):
        whitening = Whitening((2, 4, 4))
        whitening.fit(features, separate=separate, ridge=0)
        sizes[separate] = float(whitening.difference(tiny, torch.zeros_like(tiny)).square().sum(1).mean())
    assert sizes[0.0] == pytest.approx(1, abs=0.05)
    assert sizes[0.5] == pytest.approx(0.5, abs=0.05)
    assert sizes[1.0] < 0.001


def test_pooled_releases() -> None:
    first = torch.tensor([0.0, 0.0, 3.0, 0.1])
    second = torch.tensor([0.0, 2.0, 5.0, 0.1])
    assert pooled([first, second, second]).tolist() == pytest.approx([0, 2, 13 / 3, 0.1])
    assert torch.equal(pooled([first] * 3), first)
