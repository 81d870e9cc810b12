"""Does mixed precision pay here, and do the figures hold? Both ways side by side, in one run."""

import pytest
import torch

from dpbench.contract.attack import Observation
from dpbench.contract.images import LabelledImages
from dpbench.machine import devices
from dpbench.metrics.fidelity import ssim
from dpbench.plugins.registry import find_attack


@pytest.fixture(scope="module")
def images():
    from dpbench.data.embedded import leaves

    pixels, labels = leaves.draw(0, range(512 + 64), 32)
    return LabelledImages(torch.from_numpy(pixels).float() / 255, torch.from_numpy(labels))


def patches(batch):
    """A stand-in client: 4x4 patches side by side as channels, mixed and rectified."""
    features = torch.nn.functional.pixel_unshuffle(batch, 4)
    mixing = torch.randn(64, 48, 1, 1, generator=torch.Generator().manual_seed(0)) / 7
    return torch.nn.functional.conv2d(features, mixing).relu()


@pytest.mark.benchmark(group="training a decoder for two passes over 512 images")
@pytest.mark.parametrize("precision", ["float32", "autocast"])
def test_decoder_training(benchmark, images, precision, monkeypatch):
    if precision == "float32":
        monkeypatch.setattr(devices, "fast_dtype", lambda kind: None)
    victims = images.images[512:]
    attack = find_attack("decoder")(steps=16)

    def reconstruct():
        seen = Observation(
            released=patches(victims),
            image_shape=(3, 32, 32),
            auxiliary=LabelledImages(images.images[:512], images.labels[:512]),
            query=patches,
            client=None,
            remember=lambda name, train, depends_on, owner=None: train(torch.Generator().manual_seed(0)),
        )
        return attack.reconstruct(seen, generator=torch.Generator().manual_seed(0))

    found = benchmark.pedantic(reconstruct, rounds=3, warmup_rounds=1)
    benchmark.extra_info["ssim"] = round(ssim(found, victims).mean().item(), 4)
    assert found.isfinite().all()
