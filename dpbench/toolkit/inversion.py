"""What attacks that invert features share: how released features are laid out, whitened and pooled.

`dpbench.toolkit.release_match` compares releases with what is here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dpbench.contract.attack import Observation
from dpbench.machine.devices import float64_device
from dpbench.machine.memory import optimised_at_once
from dpbench.machine.randomness import draw_weight
from dpbench.toolkit.standardising import Standardising

RIDGE = 1e-3
"""Share of the mean eigenvalue that is added to all before whitening: bounds how far noise is magnified."""

ALIVE = 1e-10
"""Directions of less variance than this, relative to the mean, are rounding errors of 32-bit releases."""

SIGNAL_SHARE = 0.1
"""Share of the covariance that counts as inexact beside the noise: no image found is exact to the last digit."""

LARGEST_FLAT = 1024
"""Values of a flat release beyond which whitening would need more auxiliary images than attackers have."""

SAMPLES_PER_CHANNEL = 8
"""Fewer samples than so many for each channel give no covariance to rely on."""

WINDOW = 96
"""Side of the windows in which the SSIM of larger images is taken in training, one at random for each step: that of the
whole image takes longer than the network."""


def channel_axis(shape: tuple[int, ...]) -> int:
    """Which axis of released features (N, ...) holds the channels.

    (N,C,H,W) -> 1, also where H and W differ; (N,H,W,C) with square maps -> 3; (N,L,C) tokens -> 2; (N,D) -> 1.
    """
    if len(shape) == 3:
        return 2
    if len(shape) == 4 and shape[1] == shape[2] != shape[3]:
        return 3
    return 1


def channel_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, each shaped to broadcast against `features`.

    A channel that hardly varies gets a floor of 1% of the average std, so that dividing by it is safe.
    """
    axis = channel_axis(tuple(features.shape))
    others = [i for i in range(features.ndim) if i != axis]
    features = features.float()
    mean = features.mean(others, keepdim=True)
    std = features.std(others, keepdim=True, correction=0)
    return mean, std.clamp_min(1e-2 * std.mean().clamp_min(1e-6))


class Whitening(nn.Module):
    """A map of released features after which their channels have unit variance and no correlation (ZCA).

    A defense can hide an image in directions of tiny variance, where a network hardly looks and a distance hardly
    counts. It is linear in what `Standardising` makes of the features, which is where scale, precision and outliers
    go. Flat features beyond `LARGEST_FLAT` values, and covariances from too few samples, are only divided by
    the std per channel.

    Args:
        feature_shape: released features without the batch axis.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, feature_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.axis = channel_axis((1, *feature_shape))
        channels = feature_shape[self.axis - 1]
        self.mixes = len(feature_shape) > 1 or channels <= LARGEST_FLAT
        self.standardising = Standardising(feature_shape, self.axis)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("matrix", torch.eye(channels) if self.mixes else torch.ones(channels))

    @torch.no_grad()
    def fit(
        self,
        released: Tensor,
        *,
        again: Tensor | None = None,
        mix: bool = True,
        separate: float = 0.0,
        ridge: float = RIDGE,
    ) -> None:
        """Take mean and covariance from releases of auxiliary images.

        Args:
            released: (N, ...) releases.
            again: (N, ...) other releases of the same images. Directions are then weighed by how exact they are, as
                maximum likelihood does, and by `SIGNAL_SHARE` of how much they vary.
            mix: False divides by the std per channel only, so that entries stay apart.
            separate: share of squared lengths that is measured channel by channel, in [0,1]; the rest is whitened.
            ridge: see `RIDGE`.
        """
        self.standardising.fit(released)
        standard = self.standardising(released)
        samples = standard.movedim(self.axis, -1).flatten(0, -2)
        if not (self.mixes and mix and len(samples) >= SAMPLES_PER_CHANNEL * samples.shape[1]):
            mean, std = channel_statistics(standard)
            inverse = 1 / std.flatten()
            self.mean.copy_(mean.flatten())
            self.matrix.copy_(torch.diag(inverse) if self.mixes else inverse)
            return
        mean, covariance = _mean_and_covariance(samples)
        spread = covariance
        if again is not None:
            # half: the difference of two draws has twice the variance of one
            noise = standard - self.standardising(again)
            _, of_noise = _mean_and_covariance(noise.movedim(self.axis, -1).flatten(0, -2))
            spread = SIGNAL_SHARE * covariance + of_noise / 2
        # on the CPU: the same on every device
        values, vectors = torch.linalg.eigh(spread)
        values = values.clamp_min(0)
        # a release that does not vary at all has no unit
        typical = values.mean().clamp_min(1e-24)
        # a release that hides some directions below the ridge gets a lower one; dead channels hide nothing
        alive = values[values > ALIVE * typical]
        ridge = min(ridge, float(alive.min() / typical)) if len(alive) else ridge
        matrix = vectors @ torch.diag((values + ridge * typical).rsqrt()) @ vectors.T
        if again is not None:
            # unit variance on average, as without noise: distances keep their meaning
            variance = (matrix @ covariance @ matrix).diagonal().mean()
            matrix = matrix / variance.clamp_min(1e-24).sqrt()
        if separate:
            variance = covariance.diagonal()
            by_channel = torch.diag(1 / variance.clamp_min(1e-4 * variance.mean()).clamp_min(1e-24))
            values, vectors = torch.linalg.eigh(separate * by_channel + (1 - separate) * matrix @ matrix)
            matrix = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
        self.mean.copy_(mean)
        self.matrix.copy_(matrix)

    def difference(self, one: Tensor, other: Tensor) -> Tensor:
        """The whitened difference of two releases (N, ...): same shape, fp32."""
        return self._mixed(self.standardising(one) - self.standardising(other))

    def forward(self, released: Tensor) -> Tensor:
        """Releases (N, ...) -> the same, centred and whitened, fp32."""
        standard = self.standardising(released)
        return self._mixed((standard.movedim(self.axis, -1) - self.mean).movedim(-1, self.axis))

    def _mixed(self, standard: Tensor) -> Tensor:
        # without autocast: 16 bits of the large directions would drown the small ones
        with torch.autocast(standard.device.type, enabled=False):
            x = standard.movedim(self.axis, -1)
            y = x @ self.matrix if self.mixes else x * self.matrix
        return y.movedim(-1, self.axis)


def _mean_and_covariance(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (C,) and covariance (C,C) of samples (N,C), float64 on the CPU."""
    # in float32 the small eigenvalues, which are the point, would be rounding errors
    device = float64_device(samples.device)
    chunks = samples.split(1 << 16)
    mean = torch.stack([chunk.to(device).double().sum(0) for chunk in chunks]).sum(0) / len(samples)
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=device)
    for chunk in chunks:
        centred = chunk.to(device).double() - mean
        covariance += centred.T @ centred / len(samples)
    return mean.cpu(), covariance.cpu()


def images_for_statistics(feature_shape: tuple[int, ...], *, least: int, most: int = 4096) -> int:
    """How many images `Whitening` needs for features (N, *feature_shape), within bounds."""
    channels = feature_shape[channel_axis((1, *feature_shape)) - 1]
    positions = math.prod(feature_shape) // channels
    wanted = SAMPLES_PER_CHANNEL * channels // positions + 1
    return min(max(least, wanted if len(feature_shape) > 1 or channels <= LARGEST_FLAT else 0), most)


def pooled(releases: Sequence[Tensor]) -> Tensor:
    """What several releases of the same images say together, each (N, ...) -> (N, ...), at least fp32.

    The mean of the entries that are not zero: dropped entries are filled in, noise is averaged. An entry that never
    changes keeps its value to the bit.
    """
    first = releases[0].to(torch.promote_types(releases[0].dtype, torch.float32))
    if len(releases) == 1:
        return first
    total, count = torch.zeros_like(first), torch.zeros_like(first)
    constant = torch.ones_like(first, dtype=torch.bool)
    for release in releases:
        total += release
        count += release != 0
        constant &= release == first
    return torch.where(constant, first, total / count.clamp_min(1))


def pooled_query(query: Callable[[Tensor], Tensor], times: int) -> Callable[[Tensor], Tensor]:
    """Images -> what `times` releases of them say together."""
    return lambda images: pooled([query(images) for _ in range(times)])


def victim_releases(seen: Observation) -> tuple[Tensor, ...]:
    """All releases of the victims, each (N, ...); only one where all are the same, since the rest say nothing."""
    if all(torch.equal(release, seen.released) for release in seen.again):
        return (seen.released,)
    return (seen.released, *seen.again)


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, per image: (N,3,H,W) -> (N,)."""
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().mean((1, 2, 3))
    right = (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().mean((1, 2, 3))
    return down + right


def same_window(output: Tensor, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The same window of both (N,3,H,W), at most `WINDOW` a side."""
    for axis in (2, 3):
        beyond = images.shape[axis] - WINDOW
        if beyond > 0:
            start = int(torch.randint(beyond + 1, (), generator=generator, device=generator.device))
            output, images = output.narrow(axis, start, WINDOW), images.narrow(axis, start, WINDOW)
    return output, images


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw every convolution and linear weight anew (He et al. 2015) from `generator`; biases become zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            draw_weight(module.weight, nn.init.kaiming_normal_, generator, a=1.0)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Curve:
    """Figures of an optimisation that stay on the device until it has ended: no step waits for one."""

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._figures: list[Tensor] = []

    def add(self, step: int, figure: Tensor) -> None:
        """Keep a figure ()."""
        self._steps.append(step)
        self._figures.append(figure.detach())

    def log(self, seen: Observation, name: str) -> None:
        """Put it into the record, under this name."""
        figures = torch.stack(self._figures).tolist() if self._figures else []
        for step, figure in zip(self._steps, figures, strict=True):
            seen.log(step, **{name: round(figure, 4)})


def victims_per_batch(seen: Observation) -> int:
    """How many images are optimised at once: 1,024 at 32x32, fewer of larger ones, and at most `seen.batch_size`."""
    return min(optimised_at_once(seen.image_shape), seen.batch_size)


def converged(first: Tensor, last: Tensor, residual: float) -> bool:
    """Whether an optimisation converged, by what the attacker sees.

    The mean feature distance fell to a fifth, or to the level of the release noise.

    Args:
        first: (N,) distances of the starts.
        last: (N,) distances of the results.
        residual: `ReleaseMatch.residual`, the distance that noise leaves between releases of the same image.
    """
    return bool(last.mean() < 0.2 * first.mean() + 1.2 * residual) and math.isfinite(float(last.mean()))
