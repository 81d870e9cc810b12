"""Networks of the attacks that search a generator: a small DCGAN to train, its critic, and a DCGAN of faces."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.images import LabelledImages
from dpbench.machine.devices import autocast
from dpbench.models.carriers import read_face_generator

SMALLEST = 4
LARGEST = 128
GREY = 1.5 / 255
"""Channels that differ by no more than rounding are one."""


class Generator(nn.Module):
    """z -> image, in two halves so that the features between them can be refined.

    Args:
        image_shape: (3, H, W) to paint; painted at a power of two up to 128 and resized.
        latent: dimensions of z.
        width: channels at the full resolution; doubles at each halving, up to 8 times.
    """

    def __init__(self, image_shape: tuple[int, int, int], *, latent: int, width: int) -> None:
        super().__init__()
        self.latent = latent
        self.channels = 3
        self.image_size = (image_shape[1], image_shape[2])
        self.side = min(LARGEST, max(16, 2 ** math.ceil(math.log2(max(self.image_size)))))
        levels = int(math.log2(self.side // SMALLEST))
        widths = [width * min(8, 2 ** (levels - level)) for level in range(levels + 1)]
        self.start = nn.Linear(latent, widths[0] * SMALLEST**2)
        blocks: list[nn.Module] = [
            nn.Sequential(
                nn.Upsample(scale_factor=2, mode="nearest"),
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            )
            for before, after in itertools.pairwise(widths)
        ]
        middle = max(1, levels - 1)
        self.early = nn.Sequential(nn.BatchNorm2d(widths[0]), nn.ReLU(), *blocks[:middle])
        self.late = nn.Sequential(*blocks[middle:], nn.Conv2d(widths[-1], 3, 3, padding=1), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        """(N, latent) -> (N,3,H,W) in [0,1]."""
        images: Tensor = self.second_half(self.first_half(z))
        return images

    def paint(self, z: Tensor) -> Tensor:
        """(N, latent) -> (N,3,side,side) in [-1,1]: what the discriminator sees."""
        painted: Tensor = self.late(self._early(z))
        return painted

    def _early(self, z: Tensor) -> Tensor:
        features: Tensor = self.early(self.start(z).unflatten(1, (-1, SMALLEST, SMALLEST)))
        return features

    def first_half(self, z: Tensor) -> Tensor:
        """(N, latent) -> intermediate features (N,C,side/2,side/2), fp32."""
        with autocast(z.device):
            features = self._early(z)
        return features.float()

    def second_half(self, features: Tensor) -> Tensor:
        """Intermediate features -> (N,3,H,W) in [0,1], fp32."""
        with autocast(features.device):
            painted: Tensor = self.late(features)
        images = painted.float() * 0.5 + 0.5
        if images.shape[2:] == self.image_size:
            return images
        return functional.interpolate(images, self.image_size, mode="bilinear", align_corners=False)

    def shrink(self, images: Tensor) -> Tensor:
        """Images at the resolution that the generator paints."""
        if images.shape[2:] == (self.side, self.side):
            return images
        size = (self.side, self.side)
        return functional.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


class Discriminator(nn.Module):
    """(N,3,side,side) in [-1,1] -> (N,) scores; strided convolutions."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before, after = 3, width
        while side > SMALLEST:
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            before, after, side = after, min(after * 2, width * 8), side // 2
        self.body = nn.Sequential(*layers, nn.Conv2d(before, 1, SMALLEST))

    def forward(self, images: Tensor) -> Tensor:
        """(N,3,side,side) -> (N,)."""
        scores: Tensor = self.body(images).flatten()
        return scores


class FaceGenerator(nn.Module):
    """The DCGAN of `dpbench.models.carriers.read_face_generator`, under the names of its weights, in two halves.

    Args:
        image_shape: (3, H, W) to paint; painted at 64x64 and resized.
        grey: paint the luma of what it would paint, in three equal channels.
    """

    luma: Tensor

    def __init__(self, image_shape: tuple[int, int, int], *, grey: bool) -> None:
        super().__init__()
        widths = (100, 512, 256, 128, 64, 3)
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(itertools.pairwise(widths)):
            stride, padding = (2, 1) if i else (1, 0)
            layers.append(nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False))
            layers += [nn.BatchNorm2d(after), nn.ReLU()] if after != 3 else [nn.Tanh()]
        self.main = nn.Sequential(*layers)
        self.latent = widths[0]
        self.image_size = (image_shape[1], image_shape[2])
        self.channels = 1 if grey else 3
        self.register_buffer("luma", torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """(N, 100) -> (N,3,H,W) in [0,1]."""
        images: Tensor = self.second_half(self.first_half(z))
        return images

    def first_half(self, z: Tensor) -> Tensor:
        """(N, 100) -> intermediate features (N,128,16,16), fp32."""
        with autocast(z.device):
            features: Tensor = self.main[:9](z[:, :, None, None])
        return features.float()

    def second_half(self, features: Tensor) -> Tensor:
        """Intermediate features -> (N,3,H,W) in [0,1], fp32."""
        with autocast(features.device):
            painted = self.main[9:](features)
        images: Tensor = painted.float() * 0.5 + 0.5
        if self.channels == 1:
            images = (images * self.luma).sum(1, keepdim=True).expand(-1, 3, -1, -1)
        if images.shape[2:] == self.image_size:
            return images
        smaller = min(self.image_size) < images.shape[2]
        return functional.interpolate(images, self.image_size, mode="bilinear", align_corners=False, antialias=smaller)


def trained_on_faces(image_shape: tuple[int, int, int], *, grey: bool) -> FaceGenerator:
    """The trained generator of faces for images (N, *image_shape); see `FaceGenerator`.

    Raises:
        DpbenchError: its weights are not at hand.
    """
    network = FaceGenerator(image_shape, grey=grey)
    network.load_state_dict(read_face_generator())
    return network


def all_grey(known: LabelledImages) -> bool:
    """Whether none of the images has a colour."""
    return all(float((chunk.amax(1) - chunk.amin(1)).max()) <= GREY for chunk in known.images.split(256) if len(chunk))


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Augmentation that gradients pass, for real and generated images alike: flip, brightness, contrast.

    DiffAugment (Zhao et al. 2020). Differs: no translation, no cutout and no saturation.
    """

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device).to(images.device)

    images = torch.where(draw(len(images), 1, 1, 1) < 0.5, images.flip(3), images)
    images = images + (draw(len(images), 1, 1, 1) - 0.5) * 0.5
    mean = images.mean((1, 2, 3), keepdim=True)
    images = (images - mean) * (draw(len(images), 1, 1, 1) + 0.5) + mean
    return images
