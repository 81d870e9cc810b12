"""Networks that attacks make for a release: of any grid and image size, on the device of their inputs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attacked_clients import (
    check_images,
    observe,
    psnr_db,
    run,
)
from dpbench_attacks._gan_networks import Discriminator
from dpbench_attacks.decoder import Decoder
from dpbench_attacks.gan import GanInversion
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from dpbench.contract.images import LabelledImages


@pytest.mark.parametrize("feature_shape", [(12, 8, 8), (65, 12), (61, 12), (40,), (4, 4, 24)])
@pytest.mark.parametrize("size", [(28, 28), (32, 48), (224, 224)])
def test_networks_stay_on_one_device(feature_shape: tuple[int, ...], size: tuple[int, int]) -> None:
    with FakeTensorMode(), torch.device("cuda"):
        decoder = Decoder(width=16, blocks=1).network(feature_shape, (3, *size))
        images = decoder(torch.empty(2, *feature_shape))
        assert images.shape == (2, 3, *size)
        assert images.device.type == "cuda"


class PatchHead(nn.Module):
    """(N,3,H,W) -> an embedding of each patch, laid out as asked for; 7x7 or 8x8 patches at any size."""

    def __init__(self, patch: int, layout: str) -> None:
        super().__init__()
        self.patch, self.layout = patch, layout

    def forward(self, images: Tensor) -> Tensor:
        grid = functional.avg_pool2d(images, self.patch)
        grid = torch.cat([grid, grid.roll(1, 1) - grid], 1)
        if self.layout == "NCHW":
            return grid
        tokens = grid.flatten(2).transpose(1, 2)
        if self.layout == "NLC":
            return torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        return grid.permute(0, 2, 3, 1) if self.layout == "NHWC" else tokens.flatten(1)


LAYOUTS = ("NCHW", "NHWC", "NLC", "flat")


@pytest.mark.parametrize(
    ("size", "layout"), [*((28, layout) for layout in LAYOUTS), (96, "NHWC"), (96, "flat"), (384, "NLC")]
)
def test_the_decoder_adapts_to_any_grid_and_image_size(size: int, layout: str) -> None:
    seen, victims = observe(head=PatchHead(size // 7 if size == 28 else size // 8, layout), height=size, width=size)
    count = 64 if size < 96 else 24
    few = LabelledImages(seen.auxiliary.images[:count], seen.auxiliary.labels[:count])
    seen = replace(seen, auxiliary=few)
    images = run("decoder", seen, width=16, steps=64 if size < 96 else 24, batch_size=8 if size < 384 else 4)
    check_images(images, seen)
    guess = few.images[:].mean(0, keepdim=True).expand_as(victims)
    assert psnr_db(images, victims) > psnr_db(guess, victims) + 1


@pytest.mark.parametrize("size", [(28, 28), (32, 48), (224, 224)])
def test_gan_networks_stay_on_one_device(size: tuple[int, int]) -> None:
    with FakeTensorMode(), torch.device("cuda"):
        network = GanInversion(width=4).generator_network((3, *size))
        z = torch.empty(2, 64)
        images = network.eval()(z)
        assert images.shape == (2, 3, *size)
        scores = Discriminator(network.side, 4)(network.shrink(images))
        assert scores.shape == (2,)
        assert images.device.type == scores.device.type == "cuda"
