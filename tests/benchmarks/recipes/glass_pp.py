"""GLASS++: an encoder gives the start that GLASS searches for."""

from __future__ import annotations

import torch
from dpbench_attacks._gan_networks import Generator
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.attack import Observation
from dpbench.machine.randomness import seeded

from .common import one_at_a_time, seed_of


def glass_pp(
    seen: Observation,
    network: Generator,
    *,
    generator: torch.Generator,
    latent: int,
    encoder_steps: int = 2000,
    refine_steps: int = 8000,
) -> Tensor:
    """Encode the features to z, then refine, one image at a time: (N,3,H,W) in [0,1].

    Li et al. 2023, "GAN you see me? ..." (GLASS++). An encoder from features to w+ gives the start, then 8,000
    Adam steps at 1e-2. Differs: the generator is the DCGAN that our attack trains; the encoder maps to z; what
    is refined are the features between the generator's halves (z alone, 64 numbers, cannot follow an image). Unknown,
    and chosen here: the encoder (three convolutions and a linear layer), trained for 2,000 steps of 64 generated pairs
    with Adam 1e-3 on the squared error of z; mean squared difference of the features; the last iterate is returned.
    """
    client = seen.granted_client()
    encoder = train_encoder(seen, network, generator=generator, latent=latent, steps=encoder_steps)

    def invert(released: Tensor) -> Tensor:
        with torch.no_grad():
            features = network.first_half(encoder(released)).contiguous()
        features = features.requires_grad_(True)
        optimizer = torch.optim.Adam([features], 1e-2, fused=True)
        for _ in range(refine_steps):
            loss = (client.release(network.second_half(features)) - released).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return network.second_half(features)

    return one_at_a_time(seen, invert)


def train_encoder(
    seen: Observation, network: Generator, *, generator: torch.Generator, latent: int, steps: int
) -> nn.Module:
    """Released features of generated images -> their z."""
    channels, side = seen.released.shape[1], seen.released.shape[2]
    device = seen.released.device
    with seeded(seed_of(generator), device):
        encoder = nn.Sequential(
            *(nn.Conv2d(channels, 128, 3, padding=1), nn.BatchNorm2d(128), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(128, 128, 4, 2, 1), nn.BatchNorm2d(128), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(128, 256, 4, 2, 1), nn.BatchNorm2d(256), nn.LeakyReLU(0.2)),
            *(nn.Flatten(), nn.Linear(256 * (side // 4) ** 2, latent)),
        ).to(device)
    encoder.train()
    optimizer = torch.optim.Adam(encoder.parameters(), 1e-3, fused=True)
    for _ in range(steps):
        z = torch.randn(64, latent, generator=generator).to(device)
        with torch.no_grad():
            released = seen.granted_query()(network(z)).float()
        loss = functional.mse_loss(encoder(released), z)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return encoder.eval()
