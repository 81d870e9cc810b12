"""A split network of some hundred weights, its client, and images for both."""

import torch
from torch import nn

from dpbench.contract.defense import ProtectedModel, SplitModel
from dpbench.contract.images import LabelledImages


class Net(nn.Module):
    """A head and a tail with batch norm, dropout in the tail."""

    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4))
        self.tail = nn.Sequential(
            nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.1), nn.Linear(16, 3)
        )


def split_net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net()
    split = SplitModel(net.head, net.tail, split_point="head", image_shape=(3, 16, 16), classes=3)
    return split.eval().requires_grad_(False)


def some(count, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, 16, 16, generator=generator)
    return LabelledImages(images, torch.randint(0, 3, (count,), generator=generator))


class Client(ProtectedModel):
    """Notes what it is asked to release."""

    def __init__(self, split):
        super().__init__(split)
        self.asked = []

    def release(self, images, *, generator=None):
        self.asked.append(images.clone())
        return super().release(images, generator=generator)
