"""DRAG's detokenizer: a transformer from tokens to patches of pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.attack import Observation
from dpbench.machine.randomness import seeded

from .common import seed_of


class Plain(nn.Module):
    """Maps (N,C,h,w), a token a position -> images (N,3,H,W)."""

    def __init__(
        self, feature_shape: tuple[int, ...], image_shape: tuple[int, int, int], width: int, layers: int
    ) -> None:
        super().__init__()
        channels, rows, columns = feature_shape
        self.patch = image_shape[1] // rows
        self.enter = nn.Linear(channels, width)
        self.positions = nn.Parameter(0.02 * torch.randn(1, rows * columns, width))
        layer = nn.TransformerEncoderLayer(width, 8, 4 * width, 0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers)
        self.leave = nn.Linear(width, 3 * self.patch**2)

    def forward(self, released: Tensor) -> Tensor:
        tokens = self.leave(self.layers(self.enter(released.flatten(2).transpose(1, 2)) + self.positions))
        maps = tokens.transpose(1, 2).unflatten(2, released.shape[2:])
        return functional.pixel_shuffle(maps, self.patch)


def detokenizer_plain(
    seen: Observation,
    *,
    generator: torch.Generator,
    steps: int = 10_000,
    width: int = 512,
    layers: int = 4,
    batch: int = 256,
) -> Tensor:
    """Train it on auxiliary images and their features, then apply it: (N,3,H,W) in [0,1].

    Lei et al. 2025, "DRAG: ...": linear to 512, learned positions, 4 layers of 8 heads, linear to the pixels of each
    patch; AdamW 1e-3, cosine, warm-up, batch 256. Differs: the positions of a convolution's maps are the tokens,
    and the warm-up is a tenth of the steps. Unknown, and chosen here: mean squared error, 10,000 steps.
    """
    query, images = seen.granted_query(), seen.auxiliary.images
    with seeded(seed_of(generator), seen.released.device):
        network = Plain(tuple(seen.released.shape[1:]), seen.image_shape, width, layers).to(seen.released.device)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1.0, (s + 1) / warm) * 0.5 * (1 + math.cos(math.pi * s / steps))
    )
    for _ in range(steps):
        some = images[torch.randint(len(images), (batch,), generator=generator)]
        loss = functional.mse_loss(network(query(some).float()), some)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()
    with torch.no_grad():
        return network(seen.released.float()).clamp(0, 1)
