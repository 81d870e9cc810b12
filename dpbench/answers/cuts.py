"""What a cut costs the client, and what the features that cross still tell of the task."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.defense import ProtectedModel, SplitModel
from dpbench.contract.images import LabelledImages
from dpbench.models.adapters.linear import fit_linear
from dpbench.models.adapters.program import Program
from dpbench.service.costs import work_of
from dpbench.service.quantisation import bits_of
from dpbench.toolkit.inverse_network import features_on_grid

MOST_READ = 1024
"""Values of the features that a probe reads; grids are averaged to as few places as that takes."""


@dataclass(frozen=True)
class Cost:
    """What the client does and sends for an image.

    Attributes:
        multiply_adds: of the client; convolutions, products and attention count; None where they are not counted.
        share: of those of the whole network, in [0,1], likewise.
        parameters: of the client; None where its program does not say.
        bits: that cross.
        milliseconds: that a batch of `TIMED` images takes on this machine.
        shape: of the features of one image.
        uncounted: why multiply-adds are not counted; empty where they are.
    """

    multiply_adds: int | None
    share: float | None
    parameters: int | None
    bits: int
    milliseconds: float
    shape: tuple[int, ...]
    uncounted: str = ""


@torch.no_grad()
def cost_of(split: SplitModel, images: Tensor) -> Cost:
    """What a cut costs, by some images (N,3,H,W)."""
    work = work_of(ProtectedModel(split), images, torch.Generator(images.device))
    features = split.client_head(images[:1])
    return Cost(
        multiply_adds=work.client,
        share=work.share,
        parameters=_parameters(split.client_head),
        bits=features[0].numel() * bits_of(features.dtype),
        milliseconds=work.milliseconds,
        shape=tuple(features.shape[1:]),
        uncounted=work.uncounted,
    )


def _parameters(client: nn.Module) -> int | None:
    programs = [module.stored for module in client.modules() if isinstance(module, Program)]
    if None in programs:
        return None
    return sum(parameter.numel() for parameter in client.parameters()) + sum(count or 0 for count in programs)


@torch.no_grad()
def features_of(split: SplitModel, images: Tensor, batch_size: int) -> Tensor:
    """What the client sends, undefended, of images (N,3,H,W) in [0,1]: (N, ...)."""
    return torch.cat([split.client_head(part).float() for part in images.split(batch_size)])


def probe_accuracy(
    known: Tensor, test: Tensor, private: LabelledImages, labels: Tensor, side: int, classes: int
) -> float:
    """Share of test images whose class a linear probe names from the features that cross.

    Args:
        known: (N, ...) features of the private images.
        test: (M, ...) features of the test images.
        private: the private images' labels.
        labels: (M,) of the test images.
        side: of the images in pixels.
        classes: how many there are.
    """
    probe = fit_linear(summary(known, side), private.labels, classes).requires_grad_(False)
    guesses = probe(summary(test, side).cpu()).argmax(1)
    return float((guesses == labels.cpu()).float().mean())


def summary(features: Tensor, side: int) -> Tensor:
    """Features (N, ...) as at most about `MOST_READ` values: grids averaged to fewer places, others thinned out."""
    grid = features_on_grid(features, (side, side))
    if grid is None:
        rows = features.flatten(1)
        return rows[:, :: math.ceil(rows.shape[1] / MOST_READ)]
    places = max(1, math.isqrt(MOST_READ // grid.shape[1]))
    return functional.adaptive_avg_pool2d(grid, (min(places, grid.shape[2]), min(places, grid.shape[3]))).flatten(1)
