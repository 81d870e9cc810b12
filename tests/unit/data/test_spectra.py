"""The coloured noise: the same bytes, each image from its own seed, and the spectrum that its label says."""

import numpy as np
import pytest

from dpbench.data.embedded import spectra


def steepness(images):
    """(N,) exponents: minus the slope of log amplitude over log frequency, along the ellipses of the classes."""
    size = images.shape[-1]
    grey = images.astype(np.float64).mean(1)
    amplitude = np.abs(np.fft.fft2(grey - grey.mean((1, 2), keepdims=True)))
    down, across = np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None, :]
    found = []
    for index, spectrum in enumerate(amplitude):
        long, short = (across, down) if index % 2 == 0 else (down, across)
        f = np.sqrt(long**2 * spectra.STRETCH + short**2 / spectra.STRETCH)
        inside = (f > 0) & (f < 0.3)
        found.append(-np.polyfit(np.log(f[inside]), np.log(spectrum[inside]), 1)[0])
    return np.array(found)


def test_the_label_says_the_exponent():
    images, labels = spectra.draw(0, range(500), 64)
    found = steepness(images)
    for label, name in enumerate(spectra.CLASSES):
        low, high = (float(number) for number in name.removeprefix("1/f^").split()[0].split("-"))
        assert found[labels == label].mean() == pytest.approx((low + high) / 2, abs=0.1), name
    assert (found > 0.3).all()
    assert (found < 2.3).all()


def test_the_label_says_the_orientation():
    images, labels = spectra.draw(0, range(500), 32)
    grey = images.astype(np.float64).mean(1)
    across, down = (np.diff(grey, axis=axis).std((1, 2)) for axis in (2, 1))
    wide = np.array([name.endswith("wide") for name in spectra.CLASSES])[labels]
    assert (across[wide] < down[wide]).mean() > 0.95
    assert (across[~wide] > down[~wide]).mean() > 0.95


def test_contrast_is_normalised_and_channels_are_correlated():
    images, _ = spectra.draw(0, range(500), 32)
    centred = images / 255 - images.mean((2, 3), keepdims=True) / 255
    assert centred.std((1, 2, 3)) == pytest.approx(spectra.CONTRAST, rel=0.2)  # clipping takes a little
    assert ((images == 0) | (images == 255)).mean() < 0.05
    red, green = centred[:, 0].reshape(500, -1), centred[:, 1].reshape(500, -1)
    correlation = (red * green).mean(1) / (red.std(1) * green.std(1))
    assert 0.6 < correlation.mean() < 0.95
    assert correlation.std() > 0.05
