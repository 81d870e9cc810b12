"""DRAG: the gradient of the feature distance guides a diffusion model's denoising."""

from __future__ import annotations

import itertools
import math

import torch
from dpbench_attacks._diffusion_models import Denoiser
from torch import Tensor
from torch.nn import functional

from dpbench.contract.attack import Observation

from .common import one_at_a_time


def drag_plain(
    seen: Observation, denoiser: Denoiser, *, generator: torch.Generator, steps: int = 250, recurrences: int = 16
) -> Tensor:
    """DDIM steps with eta 1, each repeated, guided, one image at a time: (N,3,H,W) in [0,1].

    Lei et al. 2025, "DRAG: data reconstruction attack using guided diffusion": 250 steps of 16 recurrences, gradient
    clipped to norm 0.02, Adam's moments kept over all steps, a fifth of each step's noise towards them. Differs: the
    model is the pixel U-Net that our attack trains, so TV 0.01 goes with it; channels stand for tokens.
    """
    client = seen.granted_client()
    alphas = denoiser.alphas.tolist()
    times = [round(step * (len(alphas) - 1) / steps) for step in range(steps, -1, -1)]

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(like.device)

    def invert(released: Tensor) -> Tensor:
        x = noise(torch.empty(1, *seen.image_shape, device=released.device))
        mean, square, count, image = torch.zeros_like(x), torch.zeros_like(x), 0, x
        for time, later in itertools.pairwise(times):
            now, then = alphas[time], alphas[later] if later else 1.0
            for recurrence in range(recurrences):
                x = x.detach().requires_grad_(True)
                image, epsilon = denoiser.split(x, time)
                shown = image * 0.5 + 0.5
                loss = (1 - functional.cosine_similarity(client.release(shown), released, dim=1)).mean()
                loss = loss + 0.01 * image.square().mean() + 0.01 * (shown.diff(dim=2).abs().mean())
                (gradient,) = torch.autograd.grad(loss, x)
                gradient = gradient * min(1.0, 0.02 / max(float(gradient.norm()), 1e-12))
                count += 1
                mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient.square()
                towards = (mean / (1 - 0.9**count)) / ((square / (1 - 0.999**count)).sqrt() + 1e-8)
                sigma = math.sqrt((1 - then) / (1 - now) * (1 - now / then))
                length = sigma * math.sqrt(x.numel())
                turned = torch.lerp(sigma * noise(x), -length * towards / towards.norm().clamp_min(1e-12), 0.2)
                turned = turned * (length / turned.norm().clamp_min(1e-12))
                image = image.detach().clamp(-1, 1)
                x = math.sqrt(then) * image + math.sqrt(max(0.0, 1 - then - sigma**2)) * epsilon.detach() + turned
                if recurrence < recurrences - 1:
                    x = math.sqrt(now / then) * x + math.sqrt(1 - now / then) * noise(x)
        return image * 0.5 + 0.5

    return one_at_a_time(seen, invert)
