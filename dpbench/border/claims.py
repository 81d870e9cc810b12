"""Whether the noise that a defense states is the noise that it adds: guarantees rest on it.

Releases of a few images are drawn again and again; what is left of them without `location` must be of mean 0 and the
stated scale and shape, drawn for every value, image and release alone. Thresholds are wide enough that a true claim is
not refuted by chance (five standard errors and more), and narrow enough that a bound computed from a false one is
nowhere near.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dpbench.contract.defense import AdditiveNoise, ProtectedModel
from dpbench.service.quantisation import understood

IMAGES = 16
VALUES = 1 << 16
"""Values of noise that are drawn at least."""

LEAST_DRAWS, MOST_DRAWS = 8, 512
SLACK = 0.02
"""Relative; rounding of features moves the noise by less."""

SURE = 6.0
"""Standard errors."""

CLIP_SLACK = 1e-4
"""Relative; norms are sums of many rounded squares."""


@torch.no_grad()
def refuted(model: ProtectedModel, noise: AdditiveNoise, images: Tensor, generator: torch.Generator) -> str:
    """Why a stated noise is not believed; empty where it is borne out.

    Args:
        model: frozen, in eval mode.
        noise: what it states.
        images: (N,3,H,W) in [0,1].
        generator: of the releases, on the images' device.
    """
    if not isinstance(noise, AdditiveNoise) or noise.distribution not in ("gaussian", "laplace"):
        return f"it states {noise!r}, which is no gaussian or laplace AdditiveNoise"
    stated = [noise.scale, *([noise.clip_norm] if noise.clip_norm is not None else [])]
    if not all(math.isfinite(value) and value >= 0 for value in stated):
        return f"it states {noise}; expected finite numbers from 0"
    chosen = images[:IMAGES]
    location = model.location(chosen.clone())
    draws = min(MOST_DRAWS, max(LEAST_DRAWS, math.ceil(VALUES / location.numel())))
    rows = []
    for _ in range(draws):
        released = understood(model, model.release(chosen.clone(), generator=generator))
        if released.shape != location.shape:
            return f"it releases {tuple(released.shape[1:])} where its location is {tuple(location.shape[1:])}"
        rows.append((released.cpu().double() - location.cpu().double()).flatten(1))
    std = noise.scale * (math.sqrt(2) if noise.distribution == "laplace" else 1)
    return _refuted(torch.stack(rows) / std, noise.distribution)


def _refuted(unit: Tensor, distribution: str) -> str:
    """As `refuted`, of noise (draws, images, values) float64 that should have standard deviation 1."""
    draws, count, values = unit.shape
    fourth = {"gaussian": 3.0, "laplace": 6.0}[distribution]
    total = unit.numel()
    if not bool(unit.isfinite().all()):
        return "its releases are not finite"
    found = float(unit.square().mean().sqrt())
    if abs(found - 1) > SLACK + SURE * math.sqrt((fourth - 1) / (4 * total)):
        return f"its noise is {found:.3g} times the stated"
    for what, means in {
        "": unit.mean(),
        " at some places": unit.mean((0, 1)),
        " for some images": unit.mean((0, 2)),
    }.items():
        # means of true noise have the variance 1 / (values that went in)
        per_mean = total / means.numel()
        excess = float((means.square() * per_mean).mean()) - 1
        if excess > SURE * math.sqrt(2 / means.numel()) + SLACK**2 * per_mean:
            return f"its noise does not have mean 0{what}"
    per_image = unit.square().mean((0, 2))
    allowed = SLACK + SURE * math.sqrt((fourth - 1) / (draws * values))
    if float((per_image - 1).abs().max()) > allowed:
        return "the scale of its noise depends on the image"
    if (distance := _distance(unit, distribution)) > SLACK / 2 + 2 / math.sqrt(min(total, VALUES)):
        return f"its noise is not {distribution} (Kolmogorov-Smirnov distance {distance:.3f})"
    # of independent rows x, y with independent values E (x.y)^2 = values; more where values, images or draws hang
    # together, or where some places get more noise than others
    flat = unit.reshape(draws * count, values)[: 4 * LEAST_DRAWS * IMAGES]
    products = flat @ flat.T
    pairs = torch.triu(torch.ones_like(products, dtype=torch.bool), diagonal=1)
    together = float(products[pairs].square().mean()) / values
    number = int(pairs.sum())
    # products of few values are no normal numbers: their squares spread more
    spread = math.sqrt((2 + fourth**2 / values) / number) if number else 0.0
    if together > 1 + 0.1 + SURE * spread:
        return "its noise is not drawn for every value, image and release alone"
    return ""


def _distance(unit: Tensor, distribution: str) -> float:
    """Kolmogorov and Smirnov's: the largest difference between the distribution functions."""
    every = max(1, unit.numel() // VALUES)
    ordered = unit.flatten()[::every].sort().values
    if distribution == "gaussian":
        expected = torch.special.ndtr(ordered)
    else:
        tail = 0.5 * torch.exp(-ordered.abs() * math.sqrt(2))
        expected = torch.where(ordered < 0, tail, 1 - tail)
    steps = torch.arange(1, len(ordered) + 1, dtype=ordered.dtype) / len(ordered)
    return float((steps - expected).abs().max())


@torch.no_grad()
def exceeds_clip(model: ProtectedModel, noise: AdditiveNoise, images: Tensor) -> str:
    """Why a stated largest norm is not believed; empty where no image goes beyond it.

    Images of noise, of one colour, and of stripes are tried beside those given: privacy is promised for any image.

    Args:
        model: frozen, in eval mode.
        noise: what it states.
        images: (N,3,H,W) in [0,1], of any kind.
    """
    if noise.clip_norm is None:
        return ""
    chance = torch.rand(8, *images.shape[1:], generator=torch.Generator().manual_seed(0)).to(images.device)
    plain = torch.tensor([0.0, 0.5, 1.0], device=images.device).view(3, 1, 1, 1).expand(3, *images.shape[1:])
    stripes = (torch.arange(images.shape[3], device=images.device) % 2).float().expand(1, *images.shape[1:])
    tried = torch.cat([images, chance, chance.round(), plain, stripes])
    locations = (model.location(part.clone()).cpu().double() for part in tried.split(64))
    largest = max(float(one.flatten(1).norm(dim=1).max()) for one in locations)
    if not largest <= noise.clip_norm * (1 + CLIP_SLACK):
        return f"its features reach the norm {largest:.4g}, beyond the stated {noise.clip_norm:.4g}"
    return ""
