"""FORA: a substitute client whose features a critic cannot tell from released ones, and its decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.attack import Observation
from dpbench.machine.randomness import seeded

from .common import seed_of
from .decoder_plain import WIDTHS, inverse_network

WIDTHS_OF_KERNELS = (0.25, 0.5, 1.0, 2.0, 4.0)


def fora_plain(seen: Observation, *, generator: torch.Generator, steps: int = 40_000) -> Tensor:
    """Fit substitute, critic and decoder on releases alone, then decode: (N,3,H,W) in [0,1].

    Xu et al. 2024, "A stealthy wrongdoer: feature-oriented reconstruction attack against split learning": the
    substitute minimises 0.2 of the critic's loss and 0.8 of a multi-kernel MMD, Adam 1e-4; the critic 3e-4 with a
    gradient penalty of 1000; the decoder learns from the substitute's features by MSE, Adam 1e-4; batch 64, 40,000
    steps. No query is asked. Unknown, and chosen here: three convolutions as the substitute and as the critic, five
    kernels around the mean distance, `decoder_plain`'s network as the decoder.
    """
    heard = torch.cat([seen.released, *([seen.overheard] if seen.overheard is not None else [])]).float()
    images, channels = seen.auxiliary.images, heard.shape[1]
    halvings = {16: (2, 1, 1), 8: (2, 2, 1), 4: (2, 2, 2)}[heard.shape[-1]]
    with seeded(seed_of(generator), images.device):
        substitute = _convolutions((3, 64, 64, channels), halvings)
        critic = nn.Sequential(_convolutions((channels, 64, 64, 1), (1, 2, 1)), nn.Flatten())
        decoder = inverse_network(channels, WIDTHS[heard.shape[-1]])
    fitted = torch.optim.Adam(substitute.parameters(), 1e-4)
    criticised = torch.optim.Adam(critic.parameters(), 3e-4)
    decoded = torch.optim.Adam(decoder.parameters(), 1e-4)
    for _ in range(steps):
        some = images[torch.randint(len(images), (64,), generator=generator)]
        real = heard[torch.randint(len(heard), (64,), generator=generator)]
        false = substitute(some)
        between = torch.lerp(real, false.detach(), torch.rand(64, 1, 1, 1, generator=generator)).requires_grad_(True)
        (gradient,) = torch.autograd.grad(critic(between).mean(1).sum(), between, create_graph=True)
        penalty = 1000 * (gradient.flatten(1).norm(dim=1) - 1).square().mean()
        _descend(criticised, critic(false.detach()).mean() - critic(real).mean() + penalty)
        _descend(fitted, -0.2 * critic(false).mean() + 0.8 * multi_kernel_mmd(false, real))
        _descend(decoded, functional.mse_loss(decoder(false.detach()), some))
    with torch.no_grad():
        return decoder.eval()(seen.released.float()).clamp(0, 1)


def multi_kernel_mmd(one: Tensor, other: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of (N, ...) and (N, ...), ()."""
    rows = torch.cat([one.flatten(1), other.flatten(1)])
    squares = torch.cdist(rows, rows).square()
    unit = squares.detach().mean()
    kernels = torch.stack([torch.exp(-squares / (width * unit)) for width in WIDTHS_OF_KERNELS]).mean(0)
    n = len(one)
    return kernels[:n, :n].mean() + kernels[n:, n:].mean() - 2 * kernels[:n, n:].mean()


def _convolutions(channels: tuple[int, ...], strides: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after, stride in zip(channels, channels[1:], strides, strict=False):
        layers += [nn.Conv2d(before, after, 3, stride, 1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
