"""The SSIM that training loops use beside the one that is published: the same figures, and the same gradients."""

import pytest
import torch

from dpbench.metrics import fidelity


@pytest.mark.parametrize(("height", "width"), [(11, 11), (32, 32), (16, 48), (97, 33)])
def test_ssim_of_training_loops_is_the_same_and_so_is_its_gradient(height, width):
    generator = torch.Generator().manual_seed(0)
    victims = torch.rand(3, 3, height, width, generator=generator)
    noise = torch.randn(victims.shape, generator=generator)
    images = (victims + torch.tensor([0.0, 0.1, 1.0])[:, None, None, None] * noise).clamp(0, 1).requires_grad_(True)
    found, gradients = [], []
    for measure in (fidelity.ssim_unchecked, fidelity.ssim):
        found.append(measure(images, victims))
        gradients.append(torch.autograd.grad(found[-1].sum(), images)[0])
    torch.testing.assert_close(*found, atol=2e-6, rtol=0)
    torch.testing.assert_close(*gradients, atol=2e-6, rtol=0)


def test_ssim_of_training_loops_needs_a_whole_window():
    with pytest.raises(ValueError, match="at least 11 pixels a side, got 10"):
        fidelity.ssim_unchecked(torch.rand(1, 3, 32, 10), torch.rand(1, 3, 32, 10))
