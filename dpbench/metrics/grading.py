"""Reconstructions beside their victims -> the figures of every metric of dpbench's own, or why one is missing."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from dpbench.errors import DpbenchError
from dpbench.metrics.table import BUILT_IN


def grade(
    images: Tensor, victims: Tensor, batch_size: int = 256, *, metrics: Iterable[str] = tuple(BUILT_IN)
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Dpbench's own metrics per image, and why any is missing.

    Args:
        images: reconstructions (N,3,H,W) in [0,1].
        victims: the true images, the same shape.
        batch_size: images graded at once; the figures do not depend on it.
        metrics: which of them; all by default.

    Returns:
        metric -> N figures; metric -> reason for those that cannot be had.
    """
    figures: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    for name in metrics:
        measure = BUILT_IN[name]().measure
        try:
            with torch.no_grad():
                pairs = zip(images.float().split(batch_size), victims.float().split(batch_size), strict=True)
                figures[name] = torch.cat([measure(a, b).cpu() for a, b in pairs]).tolist()
        except DpbenchError as reason:
            missing[name] = str(reason)
    return figures, missing
