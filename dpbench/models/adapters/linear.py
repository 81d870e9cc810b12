"""A linear probe: ridge regression from features onto classes, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpbench.errors import DpbenchError

STRENGTHS = torch.logspace(-6, 2, 17, dtype=torch.float64)
"""Ridge penalties that are tried, per image."""

SCALES = torch.logspace(0, 3, 61, dtype=torch.float64)
"""Factors that are tried to make a softmax of what the regression gives."""

SMALLEST = 1e-10
"""Directions in which features vary by less than this, relative to the widest, are left out."""


def fit_linear(features: Tensor, labels: Tensor, classes: int) -> nn.Linear:
    """The linear layer whose largest output is the class; the same for the same features, with nothing drawn.

    Features are standardised, and regressed onto one column of 0 and 1 for each class. The penalty is the one with the
    least squared error on images left out one at a time, which has a closed form (Allen 1974); so has the factor that
    makes logits of the result: that with the least cross-entropy on the images left out. Differs from the logistic
    regression that encoders are usually probed with by its loss; it needs no iterations.

    Args:
        features: (N,D), finite.
        labels: (N,) int64 in [0, classes).
        classes: number of outputs.

    Raises:
        DpbenchError: features that are not finite, or do not vary.
    """
    features, labels = features.cpu().double(), labels.cpu()
    if not bool(features.isfinite().all()):
        raise DpbenchError("the encoder gives features that are not finite, which no probe can be fitted on")
    mean, std = features.mean(0), features.std(0, correction=0)
    if not float(std.max()) > 0:
        raise DpbenchError("the encoder gives the same features for every image, which no probe can be fitted on")
    std = std.clamp_min(1e-6 * float(std.max()))
    standard = (features - mean) / std
    targets = F.one_hot(labels, classes).double()
    rates = targets.mean(0)
    left, values, right = _singular(standard)
    projected = left.T @ (targets - rates)
    penalties = STRENGTHS * len(labels)
    tried = [_left_out(left, values, projected, targets, rates, penalty) for penalty in penalties]
    error, held_out = min(tried, key=lambda one: one[0])
    best = penalties[[one[0] for one in tried].index(error)]
    weight = right @ (values.sqrt() / (values + best))[:, None].mul(projected)
    scale = min(SCALES, key=lambda factor: float(F.cross_entropy(held_out * factor, labels)))
    layer = nn.Linear(features.shape[1], classes)
    with torch.no_grad():
        layer.weight.copy_((scale * weight / std[:, None]).T)
        layer.bias.copy_(scale * (rates - (mean / std) @ weight))
    return layer


def _singular(standard: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Left vectors (N,R), squared singular values (R,) and right vectors (D,R), from the smaller Gram matrix."""
    wide = standard.shape[1] > standard.shape[0]
    values, vectors = torch.linalg.eigh(standard @ standard.T if wide else standard.T @ standard)
    kept = values > SMALLEST * values.max()
    values, vectors = values[kept], vectors[:, kept]
    others = (standard.T if wide else standard) @ vectors / values.sqrt()
    return (vectors, values, others) if wide else (others, values, vectors)


def _left_out(
    left: Tensor, values: Tensor, projected: Tensor, targets: Tensor, rates: Tensor, penalty: Tensor
) -> tuple[float, Tensor]:
    """Mean squared error over images left out one at a time, and what is predicted of each without it (N,C)."""
    shrunk = values / (values + penalty)
    predicted = rates + left @ (shrunk[:, None] * projected)
    own = left.square() @ shrunk + 1 / len(left)
    errors = (targets - predicted) / (1 - own).clamp_min(1e-6)[:, None]
    return float(errors.square().mean()), targets - errors
