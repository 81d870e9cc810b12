"""The second embedded image set: coloured noise with the spectrum of natural images, drawn from a seed.

Natural images have an amplitude spectrum of about 1/f (Field 1987, "Relations between the statistics of natural images
and the response properties of cortical cells"), and networks trained on random-phase images of such a spectrum
transfer to photographs (Baradad et al. 2021, "Learning to see by looking at noise"). Differs from the latter: one
exponent for both axes, in [0.5,2]; colours that are correlated within an image; a stretch along one axis; contrast
normalised per image. There are no edges and no objects: for attackers whose images are unlike the victims'.

Bytes: the draws are raw PCG64 integers, but numpy promises no last digit of its FFT, of exp or of sin. All of it is
float64 and ends in 8 bits, so builds could differ only in a pixel that lies within about 1e-12 of a rounding step.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dpbench.contract.dataset import Drawn, ImageSet, PartName, numbered

Floats = NDArray[np.float64]

CLASSES = tuple(
    f"1/f^{low / 10:.1f}-{low / 10 + 0.3:.1f} {way}" for low in (5, 8, 11, 14, 17) for way in ("wide", "tall")
)
"""What the label says, and sets: the range of the exponent, and along which axis the texture is stretched."""

STEEPNESS_PER_CLASS = 0.3
STRETCH = 1.5
"""How much longer the texture is along one axis than along the other."""

CONTRAST = 0.2
"""Standard deviation of all values of an image around its mean colour, of [0,1], before clipping."""

_PER_SCENE = 13
_SAMPLES_AT_ONCE = 1 << 18  # bounds the memory: a complex spectrum for each channel


def draw(seed: int, indices: range, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The images of these indices, each drawn from (seed, index) alone; at another size it is another image.

    Args:
        seed: names the image set.
        indices: which of its images.
        size: side in pixels.

    Returns:
        (N,3,size,size) uint8 and the labels (N,), positions in `CLASSES`. Ten images in a row have ten labels.
    """
    images = np.empty((len(indices), 3, size, size), np.uint8)
    labels = np.array([index % len(CLASSES) for index in indices], np.int64)
    batch = max(1, _SAMPLES_AT_ONCE // size**2)
    for start in range(0, len(indices), batch):
        part = slice(start, start + batch)
        uniforms = _uniforms(seed, indices[part], _PER_SCENE + 3 * size * size)
        images[part] = _render(uniforms, labels[part], size)
    return images, labels


def _uniforms(seed: int, indices: range, draws: int) -> Floats:
    """(N, draws) in [0,1). The spawn key of two numbers keeps the streams apart from those of `leaves`."""
    raw = np.empty((len(indices), draws), np.uint64)
    for row, index in zip(raw, indices, strict=True):
        row[:] = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(1, index))).random_raw(draws)
    return (raw >> np.uint64(11)).astype(np.float64) / (1 << 53)


def _render(uniforms: Floats, labels: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    count = len(labels)
    scene, white = uniforms[:, :_PER_SCENE], uniforms[:, _PER_SCENE:].reshape(count, 3, size, size)
    alpha = 0.5 + STEEPNESS_PER_CLASS * (labels // 2 + scene[:, 0])
    fields = _random_phase(white, _amplitude(alpha, labels % 2 == 0, size))
    # one field is mostly luminance, two are mostly chroma: channels of photographs are correlated like that
    mixing = (2 * scene[:, 1:10].reshape(count, 3, 3) - 1) * np.array([0.4, 0.3, 0.3]) + np.array([1.0, 0.0, 0.0])
    texture = np.einsum("ncf,nfhw->nchw", mixing, fields)
    texture *= CONTRAST / texture.std((1, 2, 3), keepdims=True)
    mean_colour = 0.5 + 0.2 * (2 * scene[:, 10:13] - 1)
    values = mean_colour[:, :, None, None] + texture
    return np.asarray(np.rint(np.clip(values, 0, 1) * 255), np.uint8)


def _amplitude(alpha: Floats, wide: NDArray[np.bool_], size: int) -> Floats:
    """(N, size, size // 2 + 1) of a real FFT: 1 / f^alpha, f counted along an ellipse; no mean."""
    down, across = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    square = np.where(
        wide[:, None, None], across**2 * STRETCH + down**2 / STRETCH, across**2 / STRETCH + down**2 * STRETCH
    )
    square[:, 0, 0] = 1
    amplitude: Floats = square ** (-alpha[:, None, None] / 2)
    amplitude[:, 0, 0] = 0
    return amplitude


def _random_phase(white: Floats, amplitude: Floats) -> Floats:
    """(N,3,S,S) fields of exactly this amplitude with the phases of white noise, each of standard deviation 1.

    The phases of a real image are those of a real spectrum, symmetric where they have to be.
    """
    spectrum = np.fft.rfft2(white)
    spectrum *= amplitude[:, None] / np.abs(spectrum)
    fields: NDArray[Any] = np.fft.irfft2(spectrum, s=white.shape[-2:])
    return np.asarray(fields / fields.std((2, 3), keepdims=True), np.float64)


class Spectra(ImageSet):
    """Embedded: coloured noise with the spectrum of natural images, for attackers without images like the victims'."""

    name: ClassVar[str] = "spectra"
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "Baradad et al. 2021, Learning to see by looking at noise"
    classes: ClassVar[tuple[str, ...]] = CLASSES

    def draw(self, part: PartName, indices: range, *, size: int, seed: int) -> Drawn:
        """See `ImageSet`."""
        return draw(seed, numbered(part, indices), size)
