"""Attackers that are taught by pairs of features and images, and need no network that answers queries."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from dpbench.errors import DpbenchError
from dpbench.machine.devices import autocast
from dpbench.metrics.fidelity import ssim_unchecked
from dpbench.models.training import one_cycle
from dpbench.toolkit.inverse_network import InverseNetwork
from dpbench.toolkit.inversion import initialise
from dpbench.toolkit.linear_inverse import LinearInverse

FEWEST = 16
"""Pairs that an attacker is taught by at least."""

LEFT_OUT = 4
"""One in so many pairs chooses the strength of the closed form."""

LARGEST_RATE, SSIM_WEIGHT, BATCH = 4e-3, 0.2, 32


def closed_form(features: Tensor, images: Tensor, victims: Tensor) -> Tensor:
    """Ridge regression from all values to all pixels: the images of victims (V,3,H,W) in [0,1].

    Args:
        features: (N, ...), of the attacker's own images.
        images: (N,3,H,W) in [0,1].
        victims: (V, ...) features.

    Raises:
        DpbenchError: fewer than `FEWEST` pairs.
    """
    _enough(features)
    others = max(2, len(features) // LEFT_OUT)
    known, left_out = len(features) - others, images[-others:]
    inverse = LinearInverse(tuple(features.shape[1:]), _shape(images)).to(features.device)
    # it asks once for each part, in this order
    answers = iter([features[:known], *features[known:].split(64)])
    size = images.shape[-2:]

    def loss(small: Tensor, truth: Tensor) -> Tensor:
        return (functional.interpolate(small, size, mode="bilinear") - truth).square().mean()

    inverse.fit(lambda asked: next(answers), [images[:known]], left_out, loss)
    found = inverse(victims)
    return functional.interpolate(found, size, mode="bilinear").clamp(0, 1)


def decoder(
    features: Tensor,
    images: Tensor,
    victims: Tensor,
    *,
    steps: int,
    width: int,
    generator: torch.Generator,
    progress: Callable[[str], None],
) -> Tensor:
    """A small inverse network: the images of victims (V,3,H,W) in [0,1].

    As the attack `decoder`, with one residual block at each resolution, without flips, retries or a linear path that
    is learned apart: a device cannot be asked for the features of a mirrored image.

    Args:
        features: (N, ...), of the attacker's own images.
        images: (N,3,H,W) in [0,1].
        victims: (V, ...) features.
        steps: of training.
        width: channels at the resolution of the features.
        generator: draws weights and batches.
        progress: shows a short text.

    Raises:
        DpbenchError: fewer than `FEWEST` pairs.
    """
    _enough(features)
    device = features.device
    network = InverseNetwork(tuple(features.shape[1:]), _shape(images), width=width, blocks=1)
    initialise(network, generator)
    network.to(device).standardise(features[:512], images[:512])
    optimizer = torch.optim.AdamW(network.parameters(), LARGEST_RATE, weight_decay=1e-2)
    schedule = one_cycle(optimizer, LARGEST_RATE, steps=steps, rise=0.2)
    batch, order = min(BATCH, len(features)), torch.empty(0, dtype=torch.long)
    for step in range(steps):
        if step % 20 == 0:
            progress(f"step {step}/{steps}")
        if len(order) < batch:
            order = torch.randperm(len(features), generator=generator, device=generator.device).to(device)
        chosen, order = order[:batch], order[batch:]
        with autocast(device):
            output = network(features[chosen])
        output, truth = output.float(), images[chosen]
        loss = functional.l1_loss(output, truth) + SSIM_WEIGHT * (1 - ssim_unchecked(output, truth).mean())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    network.eval()
    with torch.no_grad(), autocast(device):
        found = torch.cat([network(part).float() for part in victims.split(64)])
    if not bool(found.isfinite().all()):
        raise DpbenchError("the decoder diverged; these features hold values that no network can be taught by")
    return found.clamp(0, 1)


def _shape(images: Tensor) -> tuple[int, int, int]:
    return (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))


def _enough(features: Tensor) -> None:
    if len(features) < FEWEST:
        raise DpbenchError(f"{len(features)} pairs of features and images teach nothing; expected {FEWEST} or more")
