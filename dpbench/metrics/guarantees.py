"""What holds against every attack of a stated kind, computed from the release itself; needs additive noise.

Two kinds: a bound on the error of *unbiased* reconstructions (Fisher information), and differential privacy of one
image. The first binds no attacker with a prior: decoders and regularised optimisation are biased and may go below it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from dpbench.border.claims import exceeds_clip, refuted
from dpbench.contract.defense import AdditiveNoise, ProtectedModel
from dpbench.contract.feature_transform import TransformedModel
from dpbench.errors import DpbenchError, NoGradients
from dpbench.machine.process_state import preserved
from dpbench.machine.randomness import derive_seed
from dpbench.service.composition import ComposedModel

BATCH = 64
"""Images whose gradients are held at once."""


class NotBorneOut(DpbenchError):
    """The releases are not what the stated noise would make them: nothing is guaranteed."""


LEAST_INFORMATION = 1e-30
"""Where a release says nothing at all the bound is infinite, which JSON cannot say."""

DELTA = 1e-5


def fisher_mse_bound(
    model: ProtectedModel,
    images: Tensor,
    *,
    releases: int,
    generator: torch.Generator,
    probes: int = 8,
    batch_size: int = BATCH,
) -> Tensor:
    """The least expected MSE per pixel value that an UNBIASED attacker can have, for each image.

    Maeng et al. 2023, "Bounding the invertibility of privacy-preserving instance encoding using Fisher information":
    MSE >= 1 / dFIL^2 = d / tr(I), with d = 3HW pixel values and I = i J'J, where J is the Jacobian of `model.location`
    and i the Fisher information about location of one noise value: 1/std^2 for Gaussian, 1/b^2 for Laplace noise.
    k independent releases have k times the information. Biased attackers (anyone with a prior) are not bound.
    Differs: tr(J'J) is estimated (Hutchinson 1990) with random signs. With 8 of them an
    image's bound is off by 2% (std) at layer1 of resnet10t, 6% at layer3; the mean over images by 1%, upwards.

    Args:
        model: with noise, frozen, in eval mode.
        images: (N,3,H,W) in [0,1].
        releases: of each image, seen by the attacker.
        generator: draws the signs, on the images' device.
        probes: vectors of signs for each image.
        batch_size: images whose gradients are held at once, at most `BATCH`.

    Returns:
        (N,) float32, in squared units of [0,1]; finite.

    Raises:
        DpbenchError: the release has no additive noise, or its location has no gradient.
    """
    noise = model.noise()
    if noise is None or noise.scale <= 0:
        raise DpbenchError("a Fisher information bound needs a release with additive noise of positive scale")
    information_of_one_value = 1 / noise.scale**2  # for Laplace noise too, where the scale is b
    squares = torch.cat(
        [_jacobian_squares(model, batch, generator, probes) for batch in images.split(min(batch_size, BATCH))]
    )
    information = (squares * (information_of_one_value * releases)).clamp_min(LEAST_INFORMATION)
    return images[0].numel() / information


def _jacobian_squares(model: ProtectedModel, images: Tensor, generator: torch.Generator, probes: int) -> Tensor:
    """(N,) unbiased estimates of tr(J'J): the mean of ||J'v||^2 over vectors v of random signs."""
    with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        pixels = images.detach().float().requires_grad_(True)
        location = model.location(pixels)
        if not location.requires_grad:
            raise DpbenchError("the defense states its noise, but its location(images) has no gradient")
        total = torch.zeros(len(images), device=images.device)
        for probe in range(probes):
            bits = torch.randint(2, location.shape, generator=generator, device=images.device)
            # one image's features depend on no other image, so one product serves the whole batch
            (gradient,) = torch.autograd.grad(
                location, pixels, (2 * bits - 1).to(location.dtype), retain_graph=probe + 1 < probes
            )
            total += gradient.flatten(1).square().sum(1)
    return total / probes


SAMPLES_PER_VALUE = 4
"""A covariance from fewer images than so many per value of a release says nothing."""


@torch.no_grad()
def information_bits(
    model: ProtectedModel, noise: AdditiveNoise, images: Sequence[Tensor], *, releases: int
) -> float | None:
    """The most that releases tell of an image: I <= 1/2 log2 det(I + k Cov / std^2), of the mean over such images.

    Cov is the covariance of `model.location` and k the number of releases. Of all distributions with that covariance
    the Gaussian has the largest entropy (Cover & Thomas, sections 8.6 and 9.4), so this holds for any images that are
    like these. It is an average: one unusual image may tell more.

    Args:
        model: frozen, in eval mode.
        noise: that it adds.
        images: each (N,3,H,W) in [0,1], of one kind.
        releases: of each image, seen by the attacker.

    Returns:
        Bits an image; None for noise that is not Gaussian, or too few images for a covariance.
    """
    if noise.distribution != "gaussian":
        return None
    values = model.location(images[0][:1].clone()).numel()
    if sum(map(len, images)) < SAMPLES_PER_VALUE * values:
        return None
    parts = [part for some in images for part in some.split(BATCH)]
    locations = torch.cat([model.location(part.clone()).cpu().double().flatten(1) for part in parts])
    # of few samples it comes out too small: the mean of its inverse is larger by this factor
    inflated = len(locations) / (len(locations) - values - 1)
    covariance = torch.atleast_2d(torch.cov(locations.T)) * inflated
    eigenvalues = torch.linalg.eigvalsh(covariance).clamp_min(0)
    return float((1 + releases * eigenvalues / noise.scale**2).log2().sum() / 2)


def gaussian_epsilon(noise: AdditiveNoise, *, releases: int, delta: float) -> float:
    """Local differential privacy of one image: epsilon at `delta`, exact for the Gaussian mechanism.

    Any two images are neighbours, so the L2 sensitivity is twice the norm that `location` is clipped to; k releases
    with independent noise are one with noise of scale / sqrt(k). Balle & Wang 2018, "Improving the Gaussian mechanism
    for differential privacy", eq. 6, as computed by `dp_accounting`.

    Raises:
        DpbenchError: not Gaussian noise on clipped features.
    """
    if noise.distribution != "gaussian" or noise.clip_norm is None:
        raise DpbenchError(f"epsilon needs gaussian noise on features of a bounded norm, not {noise}")
    import dp_accounting  # half a second, and only clipped releases need it

    if noise.clip_norm == 0:
        return 0.0
    multiplier = noise.scale / (2 * noise.clip_norm) / releases**0.5
    return float(dp_accounting.get_epsilon_gaussian(multiplier, delta))


def guarantees_of(
    model: ProtectedModel,
    images: Tensor,
    *,
    releases: int,
    generator: torch.Generator,
    delta: float = DELTA,
    batch_size: int = BATCH,
    others: Sequence[Tensor] = (),
) -> Guarantees | None:
    """What holds for these images under `releases` releases each; None without additive noise.

    Of defenses in a row: noise on what depends on the image alone guarantees the same whatever follows that reads
    nothing but the noisy features, since no processing tells more of the image.

    Args:
        model: frozen, in eval mode.
        images: (N,3,H,W) in [0,1].
        releases: of each image, seen by the attacker.
        generator: of the estimate, on the images' device.
        delta: at which epsilon is stated, for clipped Gaussian releases.
        batch_size: images whose gradients are held at once, at most `BATCH`.
        others: further images, each (N,3,H,W), whose features must keep to the stated norm too.

    Raises:
        NotBorneOut: the releases say otherwise than the defense.
        DpbenchError: its location has no gradient.
    """
    with preserved():
        return _guarantees_of(
            _before_processing(model, images), images.clone(), releases, generator, delta, batch_size, others
        )


def _before_processing(model: ProtectedModel, images: Tensor) -> ProtectedModel:
    """Of defenses in a row the first that states noise, if none before it draws and those behind read its release."""
    if type(model) is not ComposedModel or model.noise() is not None:
        return model
    parts = list(model.parts)
    while len(parts) > 1 and type(parts[-1]) is TransformedModel:
        parts.pop()
        part = parts[-1]
        assert isinstance(part, ProtectedModel)
        if part.noise() is not None and model.is_exact(part, images):
            return part
    return model


def _guarantees_of(
    model: ProtectedModel,
    images: Tensor,
    releases: int,
    generator: torch.Generator,
    delta: float,
    batch_size: int,
    others: Sequence[Tensor],
) -> Guarantees | None:
    noise = model.noise()
    if noise is None or (isinstance(noise, AdditiveNoise) and noise.scale == 0):
        return None
    # draws of its own: those of the bound stay what they were
    draws = torch.Generator(images.device).manual_seed(derive_seed(generator.initial_seed(), "claims"))
    reason = refuted(model, noise, images, draws) or exceeds_clip(model, noise, torch.cat([images, *others]))
    if reason:
        raise NotBorneOut(f"no guarantee: the noise that the defense states is not what it releases: {reason}")
    try:
        bound = fisher_mse_bound(model, images, releases=releases, generator=generator, batch_size=batch_size)
    except NoGradients as error:
        raise NotBorneOut(f"no guarantee: {error}") from error
    if not bool(bound.isfinite().all()):
        raise NotBorneOut("no guarantee: the gradient of the defense's location is not finite")
    bits = information_bits(model, noise, [images, *others], releases=releases)
    if noise.distribution != "gaussian" or noise.clip_norm is None:
        return Guarantees(mse_bound=bound.tolist(), information_bits=bits)
    epsilon = gaussian_epsilon(noise, releases=releases, delta=delta)
    return Guarantees(mse_bound=bound.tolist(), epsilon=epsilon, delta=delta, information_bits=bits)


class Guarantees(BaseModel):
    """What holds against every attack of a stated kind; only for releases with additive noise."""

    model_config = ConfigDict(extra="forbid")

    mse_bound: list[float] = Field(
        description="per victim: no unbiased attacker has a smaller expected MSE (1 / dFIL squared); binds no other"
    )
    epsilon: float | None = Field(None, description="differential privacy of one image, for clipped Gaussian releases")
    delta: float | None = Field(None, description="at which epsilon holds")
    information_bits: float | None = Field(
        None, description="most that the releases tell of an image on average; for Gaussian noise on few values"
    )
