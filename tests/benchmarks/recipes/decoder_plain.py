"""The plain inverse network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.attack import Observation
from dpbench.machine.randomness import seeded

from .common import seed_of

WIDTHS = {16: (64,), 8: (128, 64), 4: (256, 128, 64)}
"""Side of the features -> widths of the transposed convolutions."""

Loss = Callable[[Tensor, Tensor], Tensor]


def decoder_plain(
    seen: Observation, *, generator: torch.Generator, epochs: int = 50, loss: Loss = functional.mse_loss
) -> Tensor:
    """Train an inverse network on the auxiliary images and apply it to all victims: (N,3,H,W) in [0,1].

    Dosovitskiy & Brox 2016, "Inverting visual representations with convolutional networks", section 3; He et al. 2019,
    "Model inversion attacks against collaborative inference", section 5. [ConvT 4/2/1, BN, LeakyReLU 0.2] x n, then
    ConvT -> 3; MSE, Adam 1e-3, batch 128, 50 epochs. Unknown, and chosen here: the last ConvT is 3/1/1 (n blocks
    have reached the image's resolution), no activation after it (images are clamped at the end), no augmentation,
    the last epoch's weights, the last partial batch is used. The releases are queried once: for a deterministic client.
    """
    network = train_decoder(seen, generator=generator, epochs=epochs, loss=loss)
    with torch.no_grad():
        output: Tensor = network(seen.released.float())
    return output.clamp(0, 1)


def train_decoder(
    seen: Observation, *, generator: torch.Generator, epochs: int, loss: Loss = functional.mse_loss
) -> nn.Sequential:
    """The network of `decoder_plain`, trained and in eval mode."""
    images = seen.auxiliary.images
    with torch.no_grad():
        released = torch.cat([seen.granted_query()(batch).float() for batch in images.split(256)])
    with seeded(seed_of(generator), images.device):
        network = inverse_network(released.shape[1], WIDTHS[released.shape[-1]])
    network = network.to(images.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, fused=True)
    for epoch in range(epochs):
        seen.progress(f"epoch {epoch + 1}/{epochs}")
        for batch in torch.randperm(len(images), generator=generator).split(128):
            value = loss(network(released[batch]), images[batch])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    return network.eval()


def inverse_network(channels: int, widths: tuple[int, ...]) -> nn.Sequential:
    """[ConvT 4/2/1, BN, LeakyReLU 0.2] for each width, then ConvT 3/1/1 -> 3."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.ConvTranspose2d(channels, width, 4, 2, 1), nn.BatchNorm2d(width), nn.LeakyReLU(0.2)]
        channels = width
    return nn.Sequential(*layers, nn.ConvTranspose2d(channels, 3, 3, 1, 1))
