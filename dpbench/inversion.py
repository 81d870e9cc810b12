"""What attacks that invert features share: how released features are laid out, scaled and compared.

The comparison (`ReleaseMatch`) is where a defense could make an attack fail without hiding anything, so it is
here, once: several draws for stochastic releases, masked entries left out, a straight-through surrogate where
gradients are missing (Athalye et al. 2018, "Obfuscated gradients give a false sense of security").
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpbench.types import Client, Observation

PROBES = 64
"""Auxiliary images on which the client is studied before an optimisation."""

MASK_DRAWS = 8
"""Releases of the same images that tell a masked entry from one that is always zero."""


def channel_axis(shape: tuple[int, ...]) -> int:
    """Which axis of released features (N, ...) holds the channels.

    (N,C,H,W) -> 1, also where H and W differ; (N,H,W,C) with square maps -> 3; (N,L,C) tokens -> 2; (N,D) -> 1.
    """
    if len(shape) == 3:
        return 2
    if len(shape) == 4 and shape[1] == shape[2] != shape[3]:
        return 3
    return 1


def channel_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, each shaped to broadcast against `features`.

    A channel that hardly varies gets a floor of 1% of the average std, so that dividing by it is safe.
    """
    axis = channel_axis(tuple(features.shape))
    others = [i for i in range(features.ndim) if i != axis]
    features = features.float()
    mean = features.mean(others, keepdim=True)
    std = features.std(others, keepdim=True, correction=0)
    return mean, std.clamp_min(1e-2 * std.mean().clamp_min(1e-6))


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, per image: (N,3,H,W) -> (N,)."""
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().mean((1, 2, 3))
    right = (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().mean((1, 2, 3))
    return down + right


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw every convolution and linear weight anew (He et al. 2015) from `generator`; biases become zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, a=1.0, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def victims_per_batch(image_shape: tuple[int, int, int], images: int = 1024) -> int:
    """How many images are optimised at once: `images` at 32x32, fewer in proportion to their area, at least 1."""
    return max(1, images * 32 * 32 // (image_shape[1] * image_shape[2]))


@dataclass(frozen=True)
class ReleaseMatch:
    """How far the releases of candidate images are from the victims' released features.

    Attributes:
        client: the white box.
        released: (N, ...) the victims' released features.
        inverse_std: broadcastable against `released`: one over the std of each channel.
        draws: fresh releases to average over at each call; 1 for a deterministic client.
        stochastic: two releases of the same images differ.
        noise: variance of the release noise over that of the released features, in [0,1]; 0 for masks.
        zero_weight: None, or for masking clients, per channel, how probable it is that a released zero is a
            true zero and not a masked entry. Other masked entries are left out of the distance.
        straight_through: gradients are those of `client.features`, because those of `client.release` are useless.
    """

    client: Client
    released: Tensor
    inverse_std: Tensor
    draws: int
    stochastic: bool
    noise: float
    zero_weight: Tensor | None
    straight_through: bool

    def release(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """One differentiable release of (N,3,H,W) candidate images, through the surrogate where it is needed."""
        if not self.straight_through:
            return self.client.release(images, generator=generator).float()
        with torch.no_grad():
            released = self.client.release(images, generator=generator).float()
        features = self.client.features(images).float()
        return released + (features - features.detach())

    def standardised(self, release: Tensor) -> Tensor:
        """Releases in units of the channels' std, flattened to (N, values)."""
        return (release * self.inverse_std).flatten(1)

    def distance(self, images: Tensor, victims: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared standardised difference, averaged over draws.

        Args:
            images: (M,3,H,W) candidates in [0,1].
            victims: (M,) which victim each candidate is compared with.
            generator: feeds the draws of a stochastic client.

        Returns:
            (M,) distances; 0 is a perfect match, about 2 that of unrelated images.
        """
        target = self.released[victims]
        total = torch.zeros(len(images), device=images.device)
        for _ in range(self.draws):
            total = total + self._one(self.release(images, generator), target)
        return total / self.draws

    def _one(self, release: Tensor, target: Tensor) -> Tensor:
        squares = ((release - target) * self.inverse_std).square().flatten(1)
        if self.zero_weight is None:
            return squares.mean(1)
        alive = ((target != 0) & (release != 0)).float()
        weight = torch.where(target == 0, self.zero_weight.expand_as(target), alive).flatten(1)
        return (squares * weight).sum(1) / weight.sum(1).clamp_min(1.0)


def study_client(seen: Observation, *, draws: int, generator: torch.Generator) -> ReleaseMatch:
    """Find out on auxiliary images what kind of client this is, and say so in `seen.notes`.

    Args:
        seen: grants the weights; its auxiliary images are released a few times.
        draws: how many releases to average over if the client turns out to be stochastic.
        generator: feeds the draws.
    """
    client = seen.granted_client()
    device = seen.released.device
    probes = seen.auxiliary.images[: min(PROBES, victims_per_batch(seen.image_shape))].to(device)
    with torch.no_grad():
        first = client.release(probes, generator=generator).float()
        second = client.release(probes, generator=generator).float()
    _, std = channel_statistics(first)
    gap = ((first - second) / std).square().mean()
    noise = float((gap / 2).clamp(0, 1))
    seen.notes["release_noise"] = round(noise, 6)
    stochastic = noise > 1e-6
    zero_weight = _zero_weight(client, probes, first, second, generator) if stochastic else None
    if zero_weight is not None:
        noise = 0.0  # what a mask lets through is exact
    straight_through = _needs_straight_through(client, probes, std, generator)
    fallbacks = []
    if stochastic:
        fallbacks.append(f"expectation over {draws} draws")
    if zero_weight is not None:
        fallbacks.append("masked entries left out")
    if straight_through:
        fallbacks.append("straight-through gradient")
    seen.notes["fallbacks"] = fallbacks
    return ReleaseMatch(
        client=client,
        released=seen.released.float(),
        inverse_std=1 / std,
        draws=draws if stochastic else 1,
        stochastic=stochastic,
        noise=noise,
        zero_weight=zero_weight,
        straight_through=straight_through,
    )


def _zero_weight(
    client: Client, probes: Tensor, first: Tensor, second: Tensor, generator: torch.Generator
) -> Tensor | None:
    """None unless the client masks: entries vanish in one draw and, where both survive, keep one value."""
    one_vanished = ((first == 0) != (second == 0)).float().mean()
    both = (first != 0) & (second != 0)
    unchanged = torch.isclose(first, second, rtol=1e-3)[both].float().mean()
    if not (float(one_vanished) > 1e-3 and float(unchanged) > 0.9):
        return None
    always_zero = (first == 0) & (second == 0)
    with torch.no_grad():
        for _ in range(MASK_DRAWS - 2):
            always_zero &= client.release(probes, generator=generator) == 0
    axis = channel_axis(tuple(first.shape))
    others = [i for i in range(first.ndim) if i != axis]
    true_zeros = always_zero.float().mean(others, keepdim=True)
    zeros = (first == 0).float().mean(others, keepdim=True)
    return (true_zeros / zeros.clamp_min(1e-6)).clamp(0, 1)


def _needs_straight_through(client: Client, probes: Tensor, std: Tensor, generator: torch.Generator) -> bool:
    """Whether gradients through the release are missing, zero or not finite, while those of the features work.

    The distance between the releases of each probe image and of the next one must have a finite gradient that is
    not zero on most images.
    """
    half = probes[: max(2, len(probes) // 4)].clone().requires_grad_(True)
    with torch.enable_grad():
        released = client.release(half, generator=generator).float()
        if not _gradient_is_useless(released, half, std):
            return False
        features = client.features(half).float()
        return features.shape == released.shape and not _gradient_is_useless(features, half, std)


def _gradient_is_useless(output: Tensor, images: Tensor, std: Tensor) -> bool:
    if not output.requires_grad:
        return True
    loss = ((output - output.detach().roll(1, 0)) / std).square().sum()
    (gradient,) = torch.autograd.grad(loss, images, allow_unused=True)
    if gradient is None or not bool(gradient.isfinite().all()):
        return True
    per_image = gradient.flatten(1).abs().amax(1)
    return float((per_image > 1e-12).float().mean()) < 0.5


def converged(first: Tensor, last: Tensor, noise: float) -> bool:
    """By what the attacker sees: the mean feature distance fell to a fifth, or to the level of the release noise.

    Args:
        first: (N,) distances of the starts.
        last: (N,) distances of the results.
        noise: `ReleaseMatch.noise`; two draws of the same image are 2 * noise apart.
    """
    return bool(last.mean() < 0.2 * first.mean() + 2.4 * noise) and math.isfinite(float(last.mean()))
