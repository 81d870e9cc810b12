"""The embedded images: the same bytes everywhere, each from its own seed, and worth classifying."""

import numpy as np
import pytest

from dpbench.data.embedded import leaves


def test_a_scene_scales():
    small, _ = leaves.draw(3, range(10), 32)
    large, _ = leaves.draw(3, range(10), 128)
    averaged = large.reshape(10, 3, 32, 4, 32, 4).mean((3, 5))
    assert np.abs(averaged - small).mean() < 4  # of 255: only the antialiasing differs


def test_neighbouring_pixels_agree_as_in_photographs():
    images, _ = leaves.draw(0, range(300), 32)
    grey = images.mean(1)
    near = np.corrcoef(grey[:, :, 1:].ravel(), grey[:, :, :-1].ravel())[0, 1]
    far = np.corrcoef(grey[:, :, 12:].ravel(), grey[:, :, :-12].ravel())[0, 1]
    assert near > 0.8
    assert far < near - 0.2
    assert (grey.std((1, 2)) > 8).mean() > 0.98  # no image is flat


@pytest.mark.parametrize("shape", leaves.CLASSES)
def test_a_shape_lies_in_its_circle_and_fills_a_part_of_it(shape):
    u, v = np.meshgrid(*[np.linspace(-1.5, 1.5, 301, dtype=np.float32)] * 2)
    inside = leaves.CLASSES[shape](u, v)
    assert 0.6 < inside.sum() * 0.01**2 < 2.3
    assert (u * u + v * v)[inside].max() < 1.45
