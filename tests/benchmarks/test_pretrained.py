"""Top-1 of carried weights on 1,000 photographs, one for each class of ImageNet. Some minutes on one core.

The photographs are no part of the project: a folder of 1,000 class folders whose rank is the class index, by default
beside the checkout. They may be training images, so the figures show that weights load, not how good they are. Run by:

    DPBENCH_IMAGENET_SAMPLES=FOLDER python -m pytest -n 0 tests/benchmarks/test_pretrained.py -s

Of the 1,000, 97 have a short side other than 256 pixels. Among the other 903, where no resizing is left to choose,
lite0 is right on 786 and mobilenetv2 on 742; 88.3% and 83.9% would need every one of the 97 to be right as well.
Expected here is what the weights do: 86.9% and 82.2%.
"""

import os
from pathlib import Path

import pytest
import torch
from timm.data import create_transform, resolve_data_config
from torchvision.datasets import ImageFolder

from dpbench.models import backbones, weights
from dpbench.models.spec import BackboneSpec

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data" / "imagenet-samples"
FOLDER = Path(os.environ.get("DPBENCH_IMAGENET_SAMPLES", BESIDE))


@pytest.mark.parametrize(("name", "expected"), [("tf_efficientnet_lite0", 0.869), ("mobilenetv2_100", 0.822)])
def test_top_1(name, expected):
    spec = BackboneSpec(name=name)
    source = weights.choose(spec)
    model, fits = weights.create(spec, source, image_size=224, classes=1000)
    assert fits, source.label
    transform = create_transform(**resolve_data_config({}, model=model))
    transform.transforms.pop()  # dpbench normalises by itself
    images = ImageFolder(str(FOLDER), transform=transform)
    assert len(images) == 1000, f"{FOLDER} holds {len(images)} images; see the docstring"
    network = torch.nn.Sequential(backbones.normalisation(model), model)
    right = 0
    with torch.no_grad():
        for pixels, labels in torch.utils.data.DataLoader(images, batch_size=20):
            right += int((network(pixels).argmax(dim=1) == labels).sum())
    top1 = right / len(images)
    print(f"{name}, {source.label}: top-1 {top1:.1%}")
    assert abs(top1 - expected) <= 0.01
