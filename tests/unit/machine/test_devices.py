"""Figures do not depend on what a GPU finds fast, draws are made where their generator lives, float64 where it is."""

import pytest
import torch
from dpbench_attacks import unsplit
from dpbench_defenses import _dpm_training
from torch import Tensor, nn

from dpbench.contract.metric import MetricFacts, checked_figures
from dpbench.machine.devices import compute_exactly, exact
from dpbench.machine.process_state import preserved
from dpbench.service.quantisation import as_sent
from dpbench.service.same_release import alike
from dpbench.toolkit import calibration, inversion


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


class OnMPS(Tensor):
    """Values as on a device that has no float64: asking for it is an error, as torch has it there."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function == Tensor.device.__get__:
            return torch.device("mps")
        if function is Tensor.double or any(one is torch.float64 for one in (*args, *(kwargs or {}).values())):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        result = super().__torch_function__(function, types, args, kwargs or {})
        return result.as_subclass(Tensor) if function is Tensor.cpu else result


@pytest.mark.parametrize(
    "computed",
    [
        exact,
        lambda values: alike(values, values.flip(0)),
        lambda values: as_sent(values, torch.uint8, 0.1, 3.0),
        lambda values: calibration.mean_and_std([values, values], channel_dim=1),
        lambda values: checked_figures(values.flatten(), values.numel(), MetricFacts(name="mine", low=0, high=1)),
        unsplit.colours,
    ],
    ids=["exact", "alike", "as_sent", "mean_and_std", "checked_figures", "colours"],
)
def test_no_float64_is_asked_of_a_device_that_has_none(computed):
    computed(torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0)).as_subclass(OnMPS))
