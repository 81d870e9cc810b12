"""The plain search for an image whose features match."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from dpbench.contract.attack import Observation

from .common import one_at_a_time, squared_total_variation

Start = Literal["noise", "zero"]


def rmle_plain(seen: Observation, *, generator: torch.Generator, steps: int = 20_000, start: Start = "noise") -> Tensor:
    """x* = argmin ||f(x) - z||^2 + lambda TV(x), one image at a time: (N,3,H,W) in [0,1].

    start="noise": He et al. 2019, "Model inversion attacks against collaborative inference", eq. 3: N(0,1) start,
    Adam 1e-2 with AMSGrad, lambda 1. start="zero": Mahendran & Vedaldi 2015, "Understanding deep image
    representations by inverting them": zero start, Adam 5e-2, lambda 0.1; differs: no range norm, no jitter, Adam in
    place of gradient descent with momentum. Loss: the squared difference is averaged over the features, TV (beta = 2)
    over the pixels. x is in units of standard deviations around the mean colour of the auxiliary images, so that N(0,1)
    is noise of the images' own strength and zero is grey. The last iterate is clamped and returned. Unknown, and
    chosen here: the averages in place of sums (nearly the same lambda: 4,096 features, 3,072 pixels x 2).
    """
    client = seen.granted_client()
    mean = seen.auxiliary.images.mean((0, 2, 3), keepdim=True)
    std = seen.auxiliary.images.std((0, 2, 3), keepdim=True)
    weight = 1.0 if start == "noise" else 0.1

    def invert(released: Tensor) -> Tensor:
        x = torch.zeros(1, *seen.image_shape, device=released.device)
        if start == "noise":
            x = torch.randn(x.shape, generator=generator, device=released.device)
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_(True)
        rate = 1e-2 if start == "noise" else 5e-2
        optimizer = torch.optim.Adam([x], rate, amsgrad=start == "noise", fused=True)
        for _ in range(steps):
            distance = functional.mse_loss(client.release(mean + std * x), released)
            loss = distance + weight * squared_total_variation(x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return mean + std * x

    return one_at_a_time(seen, invert)
