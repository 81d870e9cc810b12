"""The border between client and attacker: how features leave, what a white box may touch, what comes back."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dpbench.errors import DpbenchError
from dpbench.types import ProtectedModel

RELEASE_BATCH = 64
"""Images in every batch that is released: of victims and of queries alike, the last one filled up."""

DISTINCT = 1 << 16
"""Beyond so many different values, a value is counted with all bits of its type."""


@torch.no_grad()
def release_in_batches(
    model: ProtectedModel, images: Tensor, generator: torch.Generator, order: torch.Generator
) -> Tensor:
    """The one code path by which features leave the client, for victims and for the attacker's queries alike.

    Every batch has the same shape, holds images in random order and runs without gradients, so a defense cannot
    tell whom it serves. What comes back is plain data: new tensors of numbers, no objects of the defense.

    Args:
        model: frozen, in eval mode.
        images: (N,3,H,W) in [0,1].
        generator: of a stochastic defense.
        order: shuffles the images.

    Returns:
        (N, ...) floating-point features, in the order of `images`.

    Raises:
        DpbenchError: the defense broke its contract.
    """
    count = len(images)
    shuffled = torch.randperm(count, generator=order, device=order.device).to(images.device)
    full = math.ceil(count / RELEASE_BATCH) * RELEASE_BATCH
    filled = shuffled[torch.arange(full, device=images.device) % count]
    batches = []
    for chosen in filled.split(RELEASE_BATCH):
        batch = images[chosen].contiguous(memory_format=torch.channels_last)
        released = model.release(batch, generator=generator)
        # a subclass of Tensor could carry more than its numbers
        if type(released) is not Tensor or not released.is_floating_point() or len(released) != len(batch):
            came = f"{tuple(released.shape)} {released.dtype}" if isinstance(released, Tensor) else ""
            came = f"{type(released).__name__} {came}".strip()
            raise DpbenchError(
                f"the defense released {came}; expected a plain float Tensor, one row for each of {len(batch)} images"
            )
        batches.append(released)
    together = torch.cat(batches)
    restored = torch.empty_like(together[:count])
    restored[shuffled] = together[:count]
    return restored


def predict_in_batches(server: ProtectedModel, released: Tensor, order: torch.Generator) -> Tensor:
    """The server's logits (N, classes) from released features (N, ...) and nothing else.

    Args:
        server: another instance than the one that released them, so that nothing but the features passes between.
        released: what the attacker receives too.
        order: shuffles the features.
    """
    shuffled = torch.randperm(len(released), generator=order, device=order.device).to(released.device)
    with torch.no_grad():
        logits = torch.cat([server.predict(released[chosen]) for chosen in shuffled.split(RELEASE_BATCH)])
    restored = torch.empty_like(logits)
    restored[shuffled] = logits
    return restored


def assert_same_release(model: ProtectedModel, images: Tensor, *, seed: int, before: Tensor | None = None) -> Tensor:
    """With and without gradients, and on later calls, a client must release the same.

    Args:
        model: frozen, in eval mode.
        images: (N,3,H,W) in [0,1]; one batch is looked at.
        seed: of the generator of a stochastic defense.
        before: what an earlier call returned.

    Returns:
        What it releases now, for a later comparison.

    Raises:
        DpbenchError: the defense serves one thing here and another there.
    """
    batch = images[:RELEASE_BATCH]

    def once(gradients: bool) -> Tensor:
        generator = torch.Generator(images.device).manual_seed(seed)
        with torch.set_grad_enabled(gradients):
            return model.release(batch, generator=generator).detach().float()

    now = once(False)
    others = {"with gradients than without": once(True), "than a moment ago, for the same images and seed": before}
    for when, other in others.items():
        # a few values may fall to the other side of a rounding
        differ = other is not None and ((other - now).abs() > 1e-3 * now.std() + 1e-9).float().mean()
        if float(differ) > 1e-3:
            raise DpbenchError(
                f"the defense releases something else {when}; it must depend on the images and its generator alone"
            )
    return now


def release_bits(features: Tensor) -> int:
    """Bits of one image's release (N, ...) at a fixed length per value: all of its type, fewer for few levels."""
    values = math.prod(features.shape[1:])
    bits = torch.finfo(features.dtype).bits
    # most releases show in their first images that they are not quantised
    for part in (features[:RELEASE_BATCH], features):
        levels = len(torch.unique(part))
        if levels > DISTINCT:
            return values * bits
    return values * min(bits, max(1, math.ceil(math.log2(levels))))


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
