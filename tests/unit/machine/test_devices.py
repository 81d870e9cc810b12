"""Figures do not depend on what a GPU finds fast, and random draws are made where their generator lives."""

import pytest
import torch
from dpbench_defenses import _dpm_training
from torch import nn

from dpbench.machine.devices import compute_exactly
from dpbench.machine.process_state import preserved
from dpbench.toolkit import inversion


def test_cuda_convolutions_are_deterministic_and_in_full_fp32():
    with preserved():
        torch.backends.cudnn.allow_tf32 = True
        compute_exactly()
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("initialise", [inversion.initialise, _dpm_training.initialise])
def test_weights_on_another_device_are_drawn_where_the_generator_lives(initialise):
    here, elsewhere = (torch.Generator().manual_seed(0) for _ in range(2))
    initialise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(5, 6)), here)
    initialise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(5, 6)).to("meta"), elsewhere)
    assert torch.equal(here.get_state(), elsewhere.get_state())
