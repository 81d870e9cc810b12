"""Putting values of any scale on one: what networks and distances need, whatever a release did to its numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from dpbench.machine.devices import exact

LOW, HIGH = 0.05, 0.95
"""Quantiles whose distance is the unit of a value: a few wild ones do not move them."""

FAR = 3.0
"""Units from the median beyond which values approach the next whole unit, so that a spike drowns nothing; about 10
standard deviations of a normal value."""

RESOLUTION = 8.0
"""Units in the last place that values must vary by; what varies by less is rounding."""

CENTRES_APART = 1.0
"""Standard deviation of the medians of a channel's positions, in units of its typical position: beyond it each
position has statistics of its own."""

SPREADS_APART = 1.5
"""Standard deviation of the logarithms of the positions' units, beyond which each position has its own statistics."""

CHUNK = 16
"""Releases that are standardised at once: in float64 more would not stay in the processor's cache."""

LEAST_IMAGES = 64
"""Fewer images say too little of a single position."""


def centre_and_unit(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Median and distance of the outer quantiles of each column, (N,D) -> (D,) and (D,), exact.

    The unit of a column that hardly ever varies is the range of all its values; of one that does not, infinite.
    """
    count = len(samples)
    ordered = samples.T.contiguous().sort(1).values.T  # twice as fast along rows
    lowest, low, centre, high, highest = (
        exact(ordered[round(share * (count - 1))]) for share in (0, LOW, 0.5, HIGH, 1)
    )
    unit = torch.where(high > low, high - low, highest - lowest)
    resolution = RESOLUTION * torch.finfo(samples.dtype).eps * centre.abs()
    return centre, torch.where(unit > resolution, unit, torch.inf)


def squashed(units: Tensor) -> Tensor:
    """Values in units from their median: as they are up to `FAR`, beyond it squeezed, in their order."""
    size = units.abs()
    return torch.where(size > FAR, units.sign() * (FAR + 1 - FAR / size.clamp_min(FAR)), units)


class Standardising(nn.Module):
    """Released features in float32, near 0 and of a size near 1, whatever their own scale and precision.

    Medians and units are those of the channel, which keeps what distinguishes its positions; where the positions of a
    channel have nothing in common, each has its own. Channels keep their sizes relative to each other.

    Args:
        feature_shape: released features without the batch axis.
        axis: of the channels, in a batch of features.
    """

    centre: Tensor
    unit: Tensor
    size: Tensor

    def __init__(self, feature_shape: tuple[int, ...], axis: int) -> None:
        super().__init__()
        self.axis = axis
        for name, value in (("centre", 0.0), ("unit", 1.0)):
            self.register_buffer(name, torch.full(feature_shape, value, dtype=torch.float64))
        self.register_buffer("size", torch.ones(feature_shape))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if fn(torch.zeros(())).device.type == "mps":  # which has no float64
            self.centre, self.unit = self.centre.float(), self.unit.float()
        moved: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return moved

    @torch.no_grad()
    def fit(self, released: Tensor) -> None:
        """Take the statistics of releases (N, ...) of any images."""
        rows = released.movedim(self.axis, -1)  # (N, ..., C)
        channels = rows.shape[-1]
        centre, unit = centre_and_unit(rows.flatten(0, -2))
        finite = unit[unit.isfinite()]
        overall = finite.square().mean().sqrt() if len(finite) else torch.ones_like(unit[0])
        size = torch.where(unit.isfinite(), unit / overall, 0)
        shape = rows.shape[1:]
        centre, unit, size = (values.expand(shape).clone() for values in (centre, unit, size))
        if rows.ndim > 2 and len(rows) >= LEAST_IMAGES:
            own_centre, own_unit = (values.view(-1, channels) for values in centre_and_unit(rows.flatten(1)))
            apart = _positions_differ(own_centre, own_unit).expand(shape)
            centre = torch.where(apart, own_centre.view(shape), centre)
            unit = torch.where(apart, own_unit.view(shape), unit)
            size = torch.where(apart, own_unit.view(shape).isfinite().to(size), size)
        for buffer, values in ((self.centre, centre), (self.unit, unit), (self.size, size)):
            buffer.copy_(values.movedim(-1, self.axis - 1))

    def forward(self, released: Tensor) -> Tensor:
        """Releases (N, ...) -> the same in float32, standardised."""
        chunks = [squashed((exact(chunk) - self.centre) / self.unit).float() for chunk in released.split(CHUNK)]
        return torch.cat(chunks) * self.size

    def restored(self, standard: Tensor) -> Tensor:
        """The releases (N, ...) that are standardised to these, but for outliers; exact."""
        scale = torch.where(self.size > 0, self.unit / torch.where(self.size > 0, self.size, 1), 0)
        return exact(standard) * scale + self.centre


def _positions_differ(centre: Tensor, unit: Tensor) -> Tensor:
    """Whether the positions of each channel have little in common, from their statistics (P,C) -> (C,) bool."""
    alive = unit.isfinite()
    count = alive.sum(0).clamp_min(1)
    logarithm = torch.where(alive, unit, 1).log()
    mean = logarithm.sum(0) / count
    spreads = (torch.where(alive, logarithm - mean, 0).square().sum(0) / count).sqrt()
    centres = centre.std(0, correction=0) / mean.exp()
    return (alive.sum(0) > 1) & ((centres > CENTRES_APART) | (spreads > SPREADS_APART))
