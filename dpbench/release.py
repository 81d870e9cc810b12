"""The border between client and attacker: how features leave, what a white box may touch, what comes back."""

from __future__ import annotations

import torch
from torch import Tensor

from dpbench.errors import DpbenchError
from dpbench.types import ProtectedModel

RELEASE_BATCH = 256
"""Images released at once, for victims and queries alike."""


@torch.no_grad()
def release_in_batches(model: ProtectedModel, images: Tensor, generator: torch.Generator) -> Tensor:
    """The one code path by which features leave the client, for victims and for the attacker's queries alike.

    Args:
        model: frozen, in eval mode.
        images: (N,3,H,W) in [0,1].
        generator: of a stochastic defense.

    Returns:
        (N, ...) floating-point features.

    Raises:
        DpbenchError: the defense broke its contract.
    """
    batches = []
    for batch in images.split(RELEASE_BATCH):
        released = model.release(batch, generator=generator)
        if not isinstance(released, Tensor) or not released.is_floating_point() or len(released) != len(batch):
            came = f"{tuple(released.shape)} {released.dtype}" if isinstance(released, Tensor) else type(released)
            raise DpbenchError(
                f"the defense released {came}; expected a float tensor, one row for each of {len(batch)} images"
            )
        batches.append(released)
    return torch.cat(batches)


def checked_features(features: Tensor) -> Tensor:
    """The victims' features if all are finite; apart from `release_in_batches` because it waits for the device."""
    if not bool(features.isfinite().all()):
        raise DpbenchError("the defense released NaN or infinite features")
    return features


def checked_images(images: object, victims: Tensor, attack: str) -> Tensor:
    """Reconstructions in [0,1], or an error that says how the attack broke its contract."""
    if not isinstance(images, Tensor) or images.shape != victims.shape:
        came = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise DpbenchError(f"attack {attack!r} returned {came}; expected images of shape {tuple(victims.shape)}")
    images = images.detach().float()
    if not bool(images.isfinite().all()):
        raise DpbenchError(f"attack {attack!r} returned NaN or infinite pixels")
    return images.clamp(0, 1)  # PSNR and SSIM assume [0, 1]


class WhiteBox:
    """The client as a white-box attacker holds it: everything up to the release, not the server's tail."""

    def __init__(self, model: ProtectedModel) -> None:
        self.release = model.release
        self.features = model.features
