"""Which view of the server is taken: a later layer only where the release hides what it shows."""

import dataclasses
import math

import pytest
import torch
from dpbench_attacks.decoder import Decoder
from tiny_observation import Way, observed
from torch.nn import functional

from dpbench.contract.attack import Observation
from dpbench.contract.defense import ProtectedModel
from dpbench.toolkit.view import CLEARLY_OF_NOISE, View, _best, viewed


def alike(count: int, side: int) -> torch.Tensor:
    """Images (count,3,side,side) that are mixtures of a few, as faces are."""
    chance = torch.Generator().manual_seed(0)
    patterns = functional.interpolate(torch.rand(6, 3, 8, 8, generator=chance), size=(side, side), mode="bilinear")
    shares = torch.softmax(2 * torch.randn(count, 6, generator=chance), 1)
    return torch.einsum("nk,kchw->nchw", shares, patterns).clamp(0, 1)


def layer(images: torch.Tensor, channels: int, stride: int) -> torch.Tensor:
    weight = torch.randn(channels, images.shape[1], stride, stride, generator=torch.Generator().manual_seed(channels))
    return functional.conv2d(images, weight / weight[0].numel() ** 0.5, stride=stride).relu()


def test_few_images_do_not_make_a_later_layer_look_better():
    """The release has a grid fine enough for a map per patch, the tap has not: each was judged in its own way."""
    images = alike(50, 64)
    release = layer(images, 128, 8)
    assert _best((release, layer(release, 256, 2)), images)[0] == View()


def test_a_release_that_shows_the_image_needs_no_other_view():
    chance = torch.Generator().manual_seed(0)
    smooth = functional.interpolate(torch.rand(64, 3, 2, 2, generator=chance), size=(32, 32), mode="bilinear")
    grain = torch.randn(64, 3, 32, 32, generator=chance)
    assert _best((smooth + 0.1 * grain, smooth), smooth)[0] == View()
    assert _best((smooth + 0.5 * grain, smooth), smooth)[0] == View("tap", 1)


def test_a_release_of_noise_is_seen_through():
    images = alike(64, 32)
    noise = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert _best((noise, images), images)[0] == View("tap", 1)


def test_a_layer_that_averages_noise_away_is_no_view():
    """It is read better by a linear map, from few images most of all; what it lost is lost for whoever trains."""
    images = alike(50, 64)
    features = layer(images, 32, 4)
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    release = features + 3 * features.std() * noise
    average = functional.avg_pool2d(release, 4)
    around = functional.unfold(functional.pad(average, (1, 1, 1, 1)), 3).unflatten(2, average.shape[2:])
    view, (of_release, of_layer) = _best((release, around), images, CLEARLY_OF_NOISE)
    assert of_layer < 0.8 * of_release
    assert view == View()


def answer(released: torch.Tensor) -> torch.Tensor:
    return released.flatten(1).sum(1, keepdim=True)


def static(server: Way | None, released: torch.Tensor) -> Observation:
    images = torch.rand(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    seen = observed(ProtectedModel, images[:4], images[4:])
    return dataclasses.replace(seen, released=released, server=server, adaptive=False, again=(released,))


def test_a_static_attacker_takes_what_has_the_shape_it_prepared_for_however_far_it_is():
    shape = static(None, torch.zeros(4, 1)).granted_query()(torch.zeros(1, 3, 16, 16)).shape[1:]
    released = torch.rand(4, math.prod(shape), generator=torch.Generator().manual_seed(1)) + 7
    found = viewed(static(Way(lambda code: 10 * code.unflatten(1, shape), answer), released))
    assert torch.equal(found.released, 10 * released.unflatten(1, shape))
    assert "tap 1 of 2" in found.notes["view"]


@pytest.mark.parametrize("server", [None, Way(answer)])
def test_a_static_attacker_that_can_read_nothing_guesses_the_same_for_all(server):
    seen = static(server, torch.rand(4, 10, generator=torch.Generator().manual_seed(1)))
    found = viewed(seen)
    query = seen.granted_query()
    mean = query(seen.auxiliary.images).mean(0)
    assert found.released.shape == (4, *mean.shape)
    assert all(torch.allclose(one, mean, atol=1e-6) for one in (*found.released, *found.again[0]))
    assert "nothing of the shape" in found.notes["view"]
    decoder = Decoder(steps=2, width=8, blocks=1, batch_size=4)
    images = decoder.reconstruct(seen, generator=torch.Generator().manual_seed(0))
    assert torch.equal(images, images[:1].expand_as(images))


def test_a_static_attacker_who_reads_releases_is_given_them_as_they_are():
    seen = static(None, torch.zeros(4, 1))
    readable = dataclasses.replace(seen, released=seen.granted_query()(seen.auxiliary.images[:4]))
    assert viewed(readable) is readable
