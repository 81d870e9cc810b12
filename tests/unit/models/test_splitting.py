"""A cut is judged by itself, not by how far a network carries the rounding of float32."""

import pytest
import torch
from torch import nn

from dpbench.contract.defense import SplitModel
from dpbench.models import splitting
from dpbench.models.packing import Uncuttable


class Rounds(nn.Module):
    """Loses the last digits that the dtype at hand cannot hold beside 100,000."""

    def forward(self, values):
        return (values + 1e5) - 1e5


class Scales(nn.Module):
    def forward(self, values):
        return values * 1.001


class Mixes(nn.Module):
    """Tells an image's features by those beside it."""

    def forward(self, values):
        return values - 0.01 * values.mean(0, keepdim=True)


class NamesItsDtype(Rounds):
    def forward(self, values):
        return super().forward(values.float())


def judge(head: nn.Module) -> None:
    """Cut behind `head`, in place of a network that does nothing to its images."""
    split = SplitModel(head, nn.Flatten(), split_point="head", image_shape=(3, 4, 4), classes=48)
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    splitting.assert_exact(split, nn.Flatten(), images, nn.Identity())


def test_rounding_is_no_fault_of_a_cut():
    judge(Rounds())


@pytest.mark.parametrize("head", [Scales(), Mixes(), NamesItsDtype()])
def test_what_float64_shows_too_is_refused(head):
    with pytest.raises(Uncuttable, match="cannot be cut exactly: the logits of the two halves are off by"):
        judge(head)


def test_the_network_that_was_judged_keeps_its_precision():
    head = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), Rounds())
    nn.init.dirac_(head[0].weight)
    judge(head)
    assert head[0].weight.dtype == torch.float32
