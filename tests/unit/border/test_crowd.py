"""Whoever serves attackers something else than victims is found out."""

import pytest
import torch
from torch import nn

from dpbench.border.crowd import Crowd
from dpbench.errors import DpbenchError


class Counting(nn.Module):
    """A client that tires after some calls."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def __call__(self, images, generator=None):
        self.after -= 1
        return images.flatten(1) * (1 if self.after >= 0 else 0)


def test_the_crowd_finds_out_who_serves_attackers_otherwise():
    crowd = Crowd(torch.rand(8, 3, 4, 4), torch.Generator().manual_seed(0))
    honest = Counting(10**9)
    for _ in range(40):
        crowd.released(torch.rand(6, 3, 4, 4), torch.Generator().manual_seed(1), honest)
    assert 0 < len(crowd.witnesses) < 40
    for _ in range(60):
        crowd.asked(torch.rand(6, 3, 4, 4), None, honest)
    tired = Counting(5)

    def ask_often():
        for _ in range(200):
            crowd.asked(torch.rand(6, 3, 4, 4), None, tired)

    with pytest.raises(DpbenchError, match="serves attackers something else"):
        ask_often()
