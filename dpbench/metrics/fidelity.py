"""Similarity metrics: two batches (N,3,H,W) in [0,1] -> N figures, in fp32. Boards average them."""

from __future__ import annotations

import piq
import torch
from piq.functional import gaussian_filter
from torch import Tensor

from dpbench.errors import DpbenchError
from dpbench.metrics.lpips_weights import LpipsUnavailable, load_lpips

WINDOW = 11
"""Side in pixels of the Gaussian window of SSIM; its standard deviation is 1.5."""

LUMINANCE, CONTRAST = 0.01**2, 0.03**2
"""The two constants of SSIM, for images in [0,1]."""

SMALLEST_LPIPS = 32
"""Side in pixels below which the pooling of AlexNet leaves nothing."""

SMALLEST_MS_SSIM = 161
"""Side in pixels that five scales need: 10 * 2**4 + 1 for an 11x11 window at the last."""


class TooSmall(DpbenchError):
    """The images are too small for a metric: nothing is wrong, there is just no such figure."""


def mse(images: Tensor, victims: Tensor) -> Tensor:
    """Mean squared error per image, (N,3,H,W) in [0,1] -> (N,)."""
    return (images - victims).square().mean(dim=(1, 2, 3))


def psnr_db(images: Tensor, victims: Tensor) -> Tensor:
    """Peak signal-to-noise ratio per image with peak 1.0, (N,3,H,W) in [0,1] -> (N,) dB, at most 80."""
    value: Tensor = piq.psnr(images, victims, data_range=1.0, reduction="none")
    return value


def ssim(images: Tensor, victims: Tensor) -> Tensor:
    """Structural similarity per image, (N,3,H,W) in [0,1] -> (N,).

    Wang et al. 2004: 11x11 Gaussian window of standard deviation 1.5, on each colour channel, without down-sampling.
    """
    value = piq.ssim(images, victims, data_range=1.0, reduction="none", downsample=False)
    assert isinstance(value, Tensor)
    return value


def ssim_unchecked(images: Tensor, victims: Tensor) -> Tensor:
    """`ssim` for training loops: the same figures within rounding, without the check of value ranges.

    Windowed means are products with band matrices: on a CPU seven times as fast as the convolution of piq, which also
    reads the extremes of both inputs back from the device at every call, and a GPU waits for that. Values outside
    [0, 1] are the caller's affair.

    Raises:
        ValueError: a side has fewer than 11 pixels.
    """
    height, width = images.shape[-2:]
    rows = _window_means(height, images)
    columns = rows if width == height else _window_means(width, images)

    def mean(values: Tensor) -> Tensor:
        return rows @ values @ columns.T

    ours, theirs = mean(images), mean(victims)
    product, squares = ours * theirs, ours * ours + theirs * theirs
    covariance = mean(images * victims) - product
    variances = mean(images * images + victims * victims) - squares
    luminance = (2 * product + LUMINANCE) / (squares + LUMINANCE)
    structure = (2 * covariance + CONTRAST) / (variances + CONTRAST)
    return (luminance * structure).mean((1, 2, 3))


def _window_means(side: int, like: Tensor) -> Tensor:
    """The matrix (side - 10, side) that takes the values of a line to the weighted means of its windows."""
    if side < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW} pixels a side, got {side}")
    weights = gaussian_filter(WINDOW, 1.5, device=like.device, dtype=like.dtype)[0].sum(0)
    padded = torch.cat([weights, weights.new_zeros(side - WINDOW + 1)])
    return padded.repeat(side - WINDOW + 1)[: (side - WINDOW + 1) * side].view(side - WINDOW + 1, side)


def ms_ssim(images: Tensor, victims: Tensor) -> Tensor:
    """Multi-scale structural similarity per image, (N,3,H,W) in [0,1] -> (N,).

    Wang et al. 2003: five scales with the weights of the paper, the window of `ssim`, on each colour channel.
    Differs: negative contrast-structure terms count as 0, as in every implementation that must not return NaN.

    Raises:
        TooSmall: a side has fewer than 161 pixels.
    """
    if min(images.shape[-2:]) < SMALLEST_MS_SSIM:
        raise TooSmall(f"images smaller than {SMALLEST_MS_SSIM} pixels do not have the five scales of MS-SSIM")
    value: Tensor = piq.multi_scale_ssim(images, victims, data_range=1.0, reduction="none")
    return value


def lpips(images: Tensor, victims: Tensor) -> Tensor:
    """Learned perceptual distance per image, (N,3,H,W) in [0,1] -> (N,); lower is closer.

    Zhang et al. 2018, AlexNet, version 0.1, on the images as they are (no resizing).

    Raises:
        LpipsUnavailable: the weights are not at hand, or the images are too small.
    """
    if min(images.shape[-2:]) < SMALLEST_LPIPS:
        raise LpipsUnavailable(f"images smaller than {SMALLEST_LPIPS} pixels leave nothing after AlexNet's pooling")
    network = load_lpips().to(images.device)
    value: Tensor = network(images, victims, normalize=True)  # normalize: [0,1] -> the [-1,1] that it wants
    return value.flatten()
