"""Deep image prior: the weights of an untrained network are the unknowns."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.attack import Observation
from dpbench.machine.randomness import seeded

from .common import one_at_a_time, seed_of, squared_total_variation

WIDTHS = (32, 64, 128, 128, 128)
SKIP = 4
INPUT_CHANNELS = 32
INPUT_NOISE_STD = (10.0, 2.0, 0.5, 0.0)
TV_WEIGHT = 0.05


def dip_plain(seen: Observation, *, generator: torch.Generator, steps: int = 20_000) -> Tensor:
    """Optimise the weights of a skip U-Net so that f(net(noise)) = z, one image at a time: (N,3,H,W) in [0,1].

    Ulyanov et al. 2018, "Deep image prior", as feature inversion (LM in split-inference papers). Widths
    32-64-128-128-128, skips 4, Adam 1e-2, 20,000 steps, noise added to the input at each step with standard deviation
    10, 2, 0.5, 0, TV 0.05. Unknown, and chosen here: each noise level lasts a quarter of the steps; the input is
    N(0,1), 32 channels; mean squared difference of the features; TV with beta = 2, pixels in [0,1]; a sigmoid at the
    end; nearest up-sampling; the fifth level keeps the resolution of the fourth, for at 32x32 it would be a single
    pixel, which batch normalisation of one image cannot take. The last output is returned.
    """
    client = seen.granted_client()

    def invert(released: Tensor) -> Tensor:
        with seeded(seed_of(generator), released.device):
            network = SkipNetwork().to(released.device, memory_format=torch.channels_last).train()
        shape = (1, INPUT_CHANNELS, *seen.image_shape[1:])
        noise = torch.randn(shape, generator=generator).to(released.device)
        optimizer = torch.optim.Adam(network.parameters(), 1e-2, fused=True)
        for step in range(steps):
            level = INPUT_NOISE_STD[len(INPUT_NOISE_STD) * step // steps]
            x = network(noise + level * torch.randn(shape, generator=generator).to(released.device))
            loss = functional.mse_loss(client.release(x), released) + TV_WEIGHT * squared_total_variation(x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            # train mode: the statistics of this one image are what the weights were fitted to
            images: Tensor = network(noise)
        return images

    return one_at_a_time(seen, invert)


def block(before: int, after: int, size: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, LeakyReLU."""
    convolution = nn.Conv2d(before, after, size, stride, size // 2)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.LeakyReLU(0.2))


class SkipNetwork(nn.Module):
    """Noise (1,32,H,W) -> image (1,3,H,W) in [0,1]."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.skip, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        before = INPUT_CHANNELS
        for level, width in enumerate(WIDTHS):
            deepest = level == len(WIDTHS) - 1
            self.skip.append(block(before, SKIP, 1))
            self.down.append(nn.Sequential(block(before, width, 3, 1 if deepest else 2), block(width, width, 3)))
            below = width if deepest else WIDTHS[level + 1]
            self.up.append(
                nn.Sequential(nn.BatchNorm2d(below + SKIP), block(below + SKIP, width, 3), block(width, width, 1))
            )
            before = width
        self.paint = nn.Conv2d(WIDTHS[0], 3, 1)

    def forward(self, noise: Tensor) -> Tensor:
        """(1,32,H,W) -> (1,3,H,W)."""
        skips, x = [], noise
        for skip, down in zip(self.skip, self.down, strict=True):
            skips.append(skip(x))
            x = down(x)
        for skipped, up in zip(reversed(skips), reversed(self.up), strict=True):
            x = up(torch.cat([skipped, functional.interpolate(x, skipped.shape[2:], mode="nearest")], 1))
        return torch.sigmoid(self.paint(x))
