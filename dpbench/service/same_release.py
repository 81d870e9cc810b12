"""A client must release the same whoever asks, whenever, in whatever batch; and a fitted one what its state gives."""

from __future__ import annotations

import torch
from torch import Tensor

from dpbench.contract.defense import ProtectedModel
from dpbench.contract.images import Images
from dpbench.errors import DpbenchError
from dpbench.machine.devices import exact
from dpbench.machine.process_state import preserved
from dpbench.machine.randomness import derive_seed, seeded
from dpbench.service.release import RELEASE_BATCH, checked_release

SIZES = (1, 5, 48)
"""Sizes of the batches whose releases are compared with that of the usual batch."""

PROBED = 10
"""How many images the small batches are made of."""

DRAWS = 8
"""How often a stochastic release is drawn, to compare its mean and spread."""

LARGEST_DRIFT = 4.0
"""Squared difference of two means over draws, in units of its variance and averaged over values: 1 where they agree."""


def assert_same_release(model: ProtectedModel, images: Images, *, seed: int, before: Tensor | None = None) -> Tensor:
    """With and without gradients, and on later calls, a client must release the same.

    Args:
        model: frozen, in eval mode.
        images: (N,3,H,W) in [0,1]; one batch is looked at.
        seed: of the generator of a stochastic defense.
        before: what an earlier call returned.

    Returns:
        What it releases now, for a later comparison.

    Raises:
        DpbenchError: the defense serves one thing here and another there.
    """
    batch = images[:RELEASE_BATCH]

    def once(gradients: bool) -> Tensor:
        with torch.set_grad_enabled(gradients):
            return _release_once(model, batch, seed).clone()

    now = once(False)
    others = {"with gradients than without": once(True), "than a moment ago, for the same images and seed": before}
    for when, other in others.items():
        if other is not None and differ(other, now):
            raise DpbenchError(
                f"the defense releases something else {when}; it must depend on the images and its generator alone"
            )
    return now


@torch.no_grad()
def assert_same_in_other_batches(model: ProtectedModel, images: Images, *, seed: int) -> None:
    """What is released of an image must not depend on how many others come with it: attackers choose their batches.

    Args:
        model: frozen, in eval mode.
        images: (N,3,H,W) in [0,1]; a few are looked at.
        seed: of the generators of a stochastic defense, whose releases are compared by mean and spread over draws.

    Raises:
        DpbenchError: the defense serves small batches, or large ones, in another way.
    """
    batch = images[:RELEASE_BATCH]
    few = min(len(batch), PROBED)

    def draws(count: int, size: int) -> Tensor:
        """(count, few, ...) releases of the first images, in batches of `size`."""
        starts = range(0, few, size)
        return torch.stack(
            [
                torch.cat(
                    [_release_once(model, batch[start : start + size], derive_seed(seed, n, start)) for start in starts]
                )[:few]
                for n in range(count)
            ]
        )

    usual = draws(2, len(batch))
    count = DRAWS if differ(usual[0], usual[1]) else 1
    usual = draws(count, len(batch)) if count > 1 else usual[:1]
    for size in SIZES:
        other = draws(count, size)
        if not (alike(usual, other) if count > 1 else not differ(usual, other)):
            raise DpbenchError(
                f"the defense releases something else in batches of {size} than in batches of {len(batch)}; what is "
                "released of an image must depend on that image and the generator alone"
            )


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether draws (D, ...) of the same stochastic release agree in mean and spread."""
    one, other = exact(one), exact(other)
    both = (one.var(0) + other.var(0)) / 2
    scale = both.mean()
    drift = (one.mean(0) - other.mean(0)).square() / (both + 1e-2 * scale + 1e-12 * one.square().mean()) / 2 * len(one)
    spread = float((one.var(0).mean() + 1e-30) / (other.var(0).mean() + 1e-30))
    return float(drift.mean()) < LARGEST_DRIFT and 0.5 < spread < 2


@torch.no_grad()
def assert_restored(fitted: ProtectedModel, restored: ProtectedModel, images: Tensor, *, seed: int, name: str) -> None:
    """A model built from what a defense learned must be the one that was fitted.

    Args:
        fitted: in eval mode.
        restored: likewise.
        images: (N,3,H,W) in [0,1].
        seed: of the generator of a stochastic defense.
        name: of the defense.

    Raises:
        DpbenchError: it releases or predicts something else.
    """
    released = []
    for model in (fitted, restored):
        with seeded(seed, images.device):
            released.append(_release_once(model, images, seed))
    predicted = []
    for model in (fitted, restored):
        with seeded(seed, images.device), preserved():
            predicted.append(model.predict(released[0].clone()).float())
    for what, (one, other) in {"releases": released, "predicts": predicted}.items():
        if differ(one, other):
            raise DpbenchError(
                f"defense {name!r}: fit left something outside parameters and buffers: built anew from its state it "
                f"{what} something else; register all that it learns as buffers in build"
            )


def _release_once(model: ProtectedModel, images: Tensor, seed: int) -> Tensor:
    """The release of one batch; the defense gets a copy of the images."""
    generator = torch.Generator(images.device).manual_seed(seed)
    with preserved():
        return checked_release(model.release(images.clone(), generator=generator), len(images)).detach()


def differ(one: Tensor, other: Tensor) -> bool:
    """Whether released features are not the same; a few values may fall to the other side of a rounding."""
    if one.shape != other.shape:
        return True
    one, other = one.float(), other.float()
    return float(((one - other).abs() > 1e-3 * other.std() + 1e-9).float().mean()) > 1e-3
