"""What a defense measures about the features of the private images before it can set its strength.

Statistics stream over batches: the features of all private images never have to fit in memory at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from dpbench.errors import DpbenchError
from dpbench.machine.devices import exact

VALUES_PER_BATCH = 1 << 16
"""How many feature values of a batch `quantiles` looks at; with 2,048 images the sample exceeds 500,000."""


def mean_and_std(batches: Iterable[Tensor], *, channel_dim: int | None = None) -> tuple[Tensor, Tensor]:
    """Mean and (population) standard deviation of all values, or of each channel.

    Args:
        batches: features (n, ...) of one shape but for n.
        channel_dim: None for two scalars; otherwise the dimension that is kept.

    Returns:
        Two float32 tensors, both () or both (C,).
    """
    count = 0
    mean = squares = torch.zeros(())
    for batch in batches:
        rows = batch.reshape(1, -1) if channel_dim is None else batch.movedim(channel_dim, 0).flatten(1)
        rows = exact(rows)
        # Chan et al. 1979: merging means and squared deviations does not cancel as sums of squares do
        batch_mean = rows.mean(1)
        batch_squares = (rows - batch_mean[:, None]).square().sum(1)
        if count == 0:
            mean, squares, count = batch_mean, batch_squares, rows.shape[1]
            continue
        total = count + rows.shape[1]
        delta = batch_mean - mean
        mean = mean + delta * (rows.shape[1] / total)
        squares = squares + batch_squares + delta.square() * (count * rows.shape[1] / total)
        count = total
    if count == 0:
        raise DpbenchError("statistics of no features at all; expected at least one batch")
    std = (squares / count).sqrt()
    return (mean[0].float(), std[0].float()) if channel_dim is None else (mean.float(), std.float())


def channel_scales(batches: Iterable[Tensor], channel_dim: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C,) by which channels are standardised: dead ones are not blown up.

    Args:
        batches: as for `mean_and_std`.
        channel_dim: the dimension of the channels.
    """
    mean, std = mean_and_std(batches, channel_dim=channel_dim)
    return mean, std.clamp(min=1e-3 * std.max() + 1e-12)


def along_channels(values: Tensor, features: Tensor, channel_dim: int) -> Tensor:
    """(C,) in a shape that broadcasts against features (N, ...) along their channels."""
    return values.view(-1, *[1] * (features.ndim - 1 - channel_dim))


def median_norm(batches: Iterable[Tensor]) -> tuple[Tensor, int]:
    """Median L2 norm of an image's features.

    Args:
        batches: features (n, ...) of one shape but for n.

    Returns:
        The median, () float32 (of an even number the lower one), and how many values an image has.
    """
    norms = []
    values = 0
    for batch in batches:
        rows = batch.flatten(1).float()
        norms.append(torch.linalg.vector_norm(rows, dim=1))
        values = rows.shape[1]
    if not norms:
        raise DpbenchError("the median norm of no features at all; expected at least one batch")
    return torch.cat(norms).median(), values


def quantiles(batches: Iterable[Tensor], shares: Sequence[float], *, generator: torch.Generator) -> Tensor:
    """Quantiles of all feature values, from a random sample of `VALUES_PER_BATCH` values of each batch.

    Args:
        batches: features (n, ...).
        shares: which quantiles, each in [0,1].
        generator: draws the sample, on the features' device.

    Returns:
        (len(shares),) float32.
    """
    sample = []
    for batch in batches:
        values = batch.flatten()
        if len(values) > VALUES_PER_BATCH:
            chosen = torch.randint(len(values), (VALUES_PER_BATCH,), generator=generator, device=values.device)
            values = values[chosen]
        sample.append(values.float())
    if not sample:
        raise DpbenchError("quantiles of no features at all; expected at least one batch")
    together = torch.cat(sample)
    return torch.quantile(together, torch.tensor(shares, dtype=together.dtype, device=together.device))
