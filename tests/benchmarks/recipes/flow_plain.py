"""A rectified flow from what a decoder paints to images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.attack import Observation
from dpbench.machine.randomness import seeded

from .common import seed_of
from .decoder_plain import train_decoder

NOISE = 0.1


class Plain(nn.Module):
    """x_t, the decoder's image, the time and features, side by side -> the velocity (N,3,H,W): a U-Net."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter, self.down = nn.Conv2d(7 + channels, 64, 3, padding=1), nn.Conv2d(64, 128, 4, 2, 1)
        self.middle = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1), nn.SiLU(), nn.Conv2d(128, 128, 3, padding=1))
        self.up, self.leave = nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.Conv2d(128, 3, 3, padding=1)

    def forward(self, moved: Tensor, start: Tensor, time: Tensor, released: Tensor) -> Tensor:
        size = moved.shape[2:]
        told = torch.cat([moved, start, time.view(-1, 1, 1, 1).expand(-1, 1, *size)], 1)
        first = functional.silu(self.enter(torch.cat([told, functional.interpolate(released, size)], 1)))
        inner = functional.silu(self.down(first))
        above = functional.silu(self.up(inner + self.middle(inner)))
        return self.leave(torch.cat([above, first], 1))


def flow_plain(
    seen: Observation, *, generator: torch.Generator, epochs: int = 50, steps: int = 10_000, euler_steps: int = 6
) -> Tensor:
    """Train a decoder and a flow from its images, then follow it, all victims in one batch: (N,3,H,W) in [0,1].

    Liu et al. 2023, "Flow straight and fast"; Ren et al. 2025, "FIA-Flow", of which the abstract alone is known. With
    x_bar the decoder's image of x and h the release: x_t = (1 - t)(x_bar + s N) + t x, target x - x_bar, conditioned
    on h. Differs: no pre-trained model. Unknown, and chosen here: `decoder_plain` as the decoder, s 0.1, a
    U-Net of two resolutions, Adam 1e-3, batch 32.
    """
    query, images = seen.granted_query(), seen.auxiliary.images
    decoder = train_decoder(seen, generator=generator, epochs=epochs)
    with seeded(seed_of(generator), images.device):
        network = Plain(seen.released.shape[1]).to(images.device)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(steps):
        some = images[torch.randint(len(images), (32,), generator=generator)]
        released = query(some).float()
        with torch.no_grad():
            start = decoder(released).clamp(0, 1)
        time = torch.rand(32, generator=generator)
        origin = start + NOISE * torch.randn(some.shape, generator=generator)
        moved = torch.lerp(origin, some, time.view(-1, 1, 1, 1))
        loss = functional.mse_loss(network(moved, start, time, released), some - start)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        released = seen.released.float()
        start = decoder(released).clamp(0, 1)
        x = start + NOISE * torch.randn(start.shape, generator=generator)
        for step in range(euler_steps):
            x = x + network(x, start, torch.full((len(x),), step / euler_steps), released) / euler_steps
        return x.clamp(0, 1)
