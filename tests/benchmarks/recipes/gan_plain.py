"""GLASS: many short searches in the latent space of a generator, then refinement behind it."""

from __future__ import annotations

import torch
from dpbench_attacks._gan_networks import Generator
from torch import Tensor

from dpbench.contract.attack import Observation

from .common import one_at_a_time


def gan_plain(
    seen: Observation,
    network: Generator,
    *,
    generator: torch.Generator,
    latent: int,
    restarts: int = 200,
    search_steps: int = 100,
    refine_steps: int = 20_000,
) -> Tensor:
    """Search 200 random z, keep the lowest feature loss, refine; one image at a time: (N,3,H,W) in [0,1].

    Li et al. 2023, "GAN you see me? Enhanced data reconstruction attacks against split inference" (GLASS). 200 z x 100
    Adam steps at 1e-2 with the KL divergence of z's mean and variance from N(0,1), weight 1; then 20,000 Adam steps at
    0.1 on intermediate features with decaying latent noise. Differs: the generator is the DCGAN that our
    attack trains on the auxiliary images, not StyleGAN2; block features stand for w+. The 200 searches of an image
    are a batch, each with its own loss. Unknown, and chosen here: mean squared difference of the features; the noise
    is 0.05 of the features' std and falls to 0 as (1 - 4/3 t)^2 (Karras et al. 2020, the projector of StyleGAN2), whose
    ramps of the learning rate are taken over too; the last iterate is returned.
    """
    client = seen.granted_client()

    def invert(released: Tensor) -> Tensor:
        z = torch.randn(restarts, latent, generator=generator).to(released.device).requires_grad_(True)
        optimizer = torch.optim.Adam([z], 1e-2, fused=True)
        for _ in range(search_steps):
            distance = (client.release(network(z)) - released).square().flatten(1).mean(1)
            loss = (distance + divergence(z)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            distance = (client.release(network(z)) - released).square().flatten(1).mean(1)
            features = network.first_half(z[distance.argmin()][None]).contiguous()
        return refine(seen, network, released, features, steps=refine_steps, generator=generator)

    return one_at_a_time(seen, invert)


def refine(
    seen: Observation,
    network: Generator,
    released: Tensor,
    features: Tensor,
    *,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Adam at 0.1 on intermediate features (1,C,h,w) with decaying noise: the image (1,3,H,W)."""
    client = seen.granted_client()
    noise_std = 0.05 * float(features.std())
    features = features.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([features], 0.1, fused=True)
    for step in range(steps):
        done = step / steps
        optimizer.param_groups[0]["lr"] = 0.1 * ramp(done)
        strength = noise_std * max(0.0, 1 - done / 0.75) ** 2
        noise = torch.randn(features.shape, generator=generator).to(features.device) if strength else 0.0
        images = network.second_half(features + strength * noise)
        loss = (client.release(images) - released).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return network.second_half(features)


def ramp(done: float) -> float:
    """Share of the learning rate: up over the first 5% of the steps, down as a cosine over the last 25%."""
    fall = min(1.0, (1 - done) / 0.25)
    return (0.5 - 0.5 * float(torch.cos(torch.tensor(fall * torch.pi)))) * min(1.0, max(done, 1e-3) / 0.05)


def divergence(z: Tensor) -> Tensor:
    """KL(N(mean, variance of z's components) || N(0,1)), (N, latent) -> (N,)."""
    mean, variance = z.mean(1), z.var(1)
    return 0.5 * (variance + mean.square() - 1 - variance.log())
