"""The learning rate of short trainings, for any number of steps."""

import pytest
import torch

from dpbench.models.training import one_cycle


@pytest.mark.parametrize("rise", [0.05, 0.1, 0.15, 0.2, 0.25, 0.5])
def test_it_rises_and_falls_over_any_number_of_steps(rise):
    for steps in range(1, 45):
        weight = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        schedule = one_cycle(optimizer, 0.5, steps=steps, rise=rise)
        rates = []
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        assert all(0 < rate <= 0.5 + 1e-9 for rate in rates), (steps, rates)


def test_it_is_torchs_own_wherever_torch_has_one():
    def rates(make):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = make(optimizer)
        found = []
        for _ in range(30):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    torchs = torch.optim.lr_scheduler.OneCycleLR
    ours = rates(lambda optimizer: one_cycle(optimizer, 0.5, steps=30, rise=0.2))
    assert ours == rates(lambda optimizer: torchs(optimizer, 0.5, total_steps=30, pct_start=0.2))
