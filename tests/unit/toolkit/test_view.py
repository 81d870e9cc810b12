"""Which view of the server is taken: a later layer only where the release hides what it shows."""

import torch
from torch.nn import functional

from dpbench.toolkit.view import CLEARLY_OF_NOISE, View, _best


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
