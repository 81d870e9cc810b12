"""The client as an attacker holds it: several draws are what several releases are."""

import pytest
import torch
from torch import nn

from dpbench.cells.white_box import WhiteBox
from dpbench.contract.defense import ProtectedModel, SplitModel


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Drawing(ProtectedModel):
    """Adds noise in place to what a linear head gives, and counts how often the head runs."""

    def __init__(self):
        super().__init__(
            SplitModel(nn.Conv2d(3, 4, 3), nn.Flatten(), split_point="x", image_shape=(3, 16, 16), classes=2)
        )
        self.register_buffer("runs", torch.zeros(()))

    def features(self, images):
        self.runs += 1
        return super().features(images)

    def transform(self, features, *, generator=None):
        return features.mul_(2).add_(torch.randn(features.shape, generator=generator))


class DrawingOnPixels(Drawing):
    """The same, and noise on the pixels before."""

    def release(self, images, *, generator=None):
        return super().release(images + torch.randn(images.shape, generator=generator), generator=generator)


class DrawingAfresh(Drawing):
    """The same, of features that were just made; of others it shows nothing."""

    fresh = False

    def features(self, images):
        self.fresh = True
        return super().features(images)

    def transform(self, features, *, generator=None):
        shown = super().transform(features, generator=generator) * float(self.fresh)
        self.fresh = False
        return shown


@pytest.mark.parametrize(("model", "runs"), [(Drawing, 1), (DrawingOnPixels, 3), (DrawingAfresh, 3)])
def test_several_draws_are_those_of_several_calls_and_run_the_head_once_where_they_may(model, runs):
    box, sent = WhiteBox(model()), torch.rand(4, 3, 16, 16, generator=generator(1)).requires_grad_(True)
    box.releases(sent, 2, generator=generator())  # finds out
    before = int(box._model.runs)
    first, second = generator(3), generator(3)
    several = box.releases(sent, 3, generator=first)
    assert int(box._model.runs) - before == runs
    each = [box.release(sent, generator=second) for _ in range(3)]
    assert torch.equal(first.get_state(), second.get_state())
    assert all(torch.equal(*pair) for pair in zip(several, each, strict=True))
    assert not torch.equal(several[0], several[1])
    gradients = [torch.autograd.grad(sum(some.square().sum() for some in drawn), sent)[0] for drawn in (several, each)]
    torch.testing.assert_close(*gradients)
