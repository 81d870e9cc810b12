"""The border between client and attacker: how features leave, what a white box may touch, what comes back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dpbench.contract.defense import ProtectedModel
from dpbench.contract.images import Images
from dpbench.errors import DpbenchError
from dpbench.machine.process_state import preserved
from dpbench.service.quantisation import FLOATS, INTEGERS, bits_of, expected_types, understood

RELEASE_BATCH = 64
"""Images in every batch that is released: of victims and of queries alike, the last one filled up."""

DISTINCT = 1 << 16
"""With more distinct values than this a release counts as unquantised: the full width of its dtype."""


@torch.no_grad()
def release_in_batches(
    model: ProtectedModel, images: Images, generator: torch.Generator, order: torch.Generator
) -> Tensor:
    """The one code path by which features leave the client, for victims and for the attacker's queries alike.

    Every batch has the same shape, holds images in random order and runs without gradients, so a defense cannot
    tell whom it serves. What comes back is plain data: new tensors of numbers, no objects of the defense.

    Args:
        model: frozen, in eval mode.
        images: (N,3,H,W) in [0,1].
        generator: of a stochastic defense.
        order: shuffles the images.

    Returns:
        (N, ...) features as they are sent, floats or integers, in the order of `images`.

    Raises:
        DpbenchError: the defense broke its contract.
    """
    shuffled = _order(len(images), order).to(images.device)
    together = torch.cat(list(_released(model, images, generator, shuffled)))
    restored = torch.empty_like(together)
    restored[shuffled] = together
    return restored


def _order(count: int, order: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=order, device=order.device)


@torch.no_grad()
def _released(model: ProtectedModel, images: Images, generator: torch.Generator, shuffled: Tensor) -> Iterator[Tensor]:
    """The released features of `images[shuffled]`, batch by batch; see `release_in_batches`."""
    count = len(shuffled)
    full = math.ceil(count / RELEASE_BATCH) * RELEASE_BATCH
    filled = shuffled[torch.arange(full, device=shuffled.device) % count]
    for number, chosen in enumerate(filled.split(RELEASE_BATCH)):
        batch = images[chosen].contiguous(memory_format=torch.channels_last)  # a copy: the defense may work in place
        with preserved():
            released = checked_release(model.release(batch, generator=generator), len(batch))
        yield released[: count - number * RELEASE_BATCH]


def checked_release(released: object, count: int) -> Tensor:
    """What a defense returned for `count` images, if it is plain data: numbers, and no objects of the defense.

    Raises:
        DpbenchError: it is something else; says what.
    """
    # a subclass of Tensor could carry more than its numbers
    if type(released) is Tensor and released.dtype in (*FLOATS, *INTEGERS) and released.shape[:1] == (count,):
        return released
    came = f"{tuple(released.shape)} {released.dtype}" if isinstance(released, Tensor) else ""
    raise DpbenchError(
        f"the defense released {type(released).__name__} {came}".rstrip()
        + f"; expected a plain Tensor of {expected_types()}, one row for each of {count} images"
    )


@dataclass(frozen=True)
class Release:
    """What left the client for the test images, and what the server made of exactly that.

    Attributes:
        features: for each release, (K, ...) of the first K images: floats, of integers what they mean.
        dtype: in which they were sent.
        guesses: (N, 5) int64, the five likeliest classes that the server reads from each image's first release, the
            likeliest first; fewer where there are fewer.
        bits: of one release of one image, see `release_bits`; of one that several share its part.
        images: that share a release.
    """

    features: tuple[Tensor, ...]
    guesses: Tensor
    bits: int
    dtype: torch.dtype
    images: int = 1


@torch.no_grad()
def release_to_server(
    client: ProtectedModel,
    server: ProtectedModel,
    images: Images,
    *,
    releases: int,
    kept: int,
    window: int,
    generator: torch.Generator,
    order: torch.Generator,
) -> Release:
    """Release all images as `release_in_batches` does, and let the server predict from the first release.

    The features of `window` images are held at once, however many images there are. The images of a window are a
    random choice, and the server receives them in another random order: nothing but the features says which is
    which. Where all fit in one window, that is an order of all.

    Args:
        client: frozen, in eval mode.
        server: another instance, so that nothing but the features passes between.
        images: (N,3,H,W) in [0,1].
        releases: of each image.
        kept: the features of the first so many images are returned.
        window: images, a multiple of `RELEASE_BATCH`.
        generator: of a stochastic defense.
        order: shuffles.

    Raises:
        DpbenchError: the defense broke its contract.
    """
    count = len(images)
    orders = [_order(count, order).to(images.device) for _ in range(releases)]
    guesses: Tensor | None = None
    features, levels = [], Levels(sparse=client.is_sparse())
    for number, shuffled in enumerate(orders):
        batches = _released(client, images, generator, shuffled)
        rows: Tensor | None = None
        for places in shuffled.split(window):
            places, by_place = places.sort()
            into = by_place.argsort()
            held: Tensor | None = None
            for chosen in into.split(RELEASE_BATCH):
                released = next(batches)
                held = released.new_empty(len(places), *released.shape[1:]) if held is None else held
                held[chosen] = released
                if number == 0:
                    levels.add(released)
            assert held is not None
            checked_features(held)
            among = places < kept
            rows = held.new_empty(min(kept, count), *held.shape[1:]) if rows is None else rows
            rows[places[among]] = held[among]
            if number == 0:
                logits = predict_in_batches(server, held, order)
                first_five = logits.topk(min(5, logits.shape[1])).indices
                first_five[:, 0] = logits.argmax(dim=1)  # of equal logits the first
                guesses = first_five.new_empty(count, first_five.shape[1]) if guesses is None else guesses
                guesses[places] = first_five
        assert rows is not None
        features.append(rows)
    assert guesses is not None
    means = tuple(understood(client, rows) for rows in features)
    return Release(means, guesses, levels.bits(features[0]), features[0].dtype)


def predict_in_batches(server: ProtectedModel, released: Tensor, order: torch.Generator) -> Tensor:
    """The server's logits (N, classes) from released features (N, ...) and nothing else.

    Args:
        server: another instance than the one that released them, so that nothing but the features passes between.
        released: what the attacker receives too.
        order: shuffles the features.
    """
    shuffled = _order(len(released), order).to(released.device)
    with torch.no_grad(), preserved():
        logits = torch.cat([server.predict(released[chosen]) for chosen in shuffled.split(RELEASE_BATCH)])
    restored = torch.empty_like(logits)
    restored[shuffled] = logits
    return restored


class Levels:
    """The different values in releases, as long as they are few.

    Args:
        sparse: what is zero is not sent, see `ProtectedModel.is_sparse`.
    """

    def __init__(self, *, sparse: bool = False) -> None:
        self.found: Tensor | None = None
        self.many = False
        self.sparse = sparse
        self.most = 0
        self.sent = 0

    def add(self, features: Tensor) -> None:
        """Further features (n, ...) of the same release."""
        if self.sparse:
            present = (features != 0).flatten(1).sum(1)
            self.most = max(self.most, int(present.max()))
        self.sent += int(present.sum()) if self.sparse else features.numel()
        for part in features.split(RELEASE_BATCH):
            if self.many:
                return  # most releases show in their first images that they are not quantised
            values = part.flatten() if self.found is None else torch.cat([self.found, part.flatten()])
            self.found = torch.unique(values)
            self.many = len(self.found) > DISTINCT

    def bits(self, features: Tensor) -> int:
        """Of one row of features (N, ...) at a fixed length per value: all of its type, fewer for few levels.

        Of a sparse release as many values as any image has that are not zero, and log2 C(n, k) bits to name them.
        """
        values = math.prod(features.shape[1:])
        bits = bits_of(features.dtype)
        if not self.many and self.found is not None and not self._all_apart(features):
            levels = len(self.found) - int(self.sparse and bool((self.found == 0).any()))
            bits = min(bits, max(1, math.ceil(math.log2(max(1, levels)))))
        if not self.sparse:
            return values * bits
        return min(values * bits, self.most * bits + places_bits(values, self.most))

    def _all_apart(self, features: Tensor) -> bool:
        """Whether most floats that were sent differ from each other: these are no levels, there are but few values."""
        return features.is_floating_point() and self.found is not None and 2 * len(self.found) > self.sent + 2


def places_bits(values: int, chosen: int) -> int:
    """Bits that say which `chosen` of so many values are meant: log2 C(values, chosen), rounded up."""
    ways = math.lgamma(values + 1) - math.lgamma(chosen + 1) - math.lgamma(values - chosen + 1)
    return math.ceil(ways / math.log(2) - 1e-6)


def release_bits(features: Tensor) -> int:
    """Bits of one image's release (N, ...) at a fixed length per value: all of its type, fewer for few levels."""
    levels = Levels()
    levels.add(features)
    return levels.bits(features)


def checked_features(features: Tensor) -> Tensor:
    """The victims' features if all are finite; apart from `release_in_batches` because it waits for the device."""
    if not bool(features.isfinite().all()):
        raise DpbenchError("the defense released NaN or infinite features")
    return features


OUTSIDE = 1 / 255
"""A reconstruction may leave [0, 1] by this much without a remark: it is rounding."""


def checked_images(images: object, victims: Tensor, attack: str) -> tuple[Tensor, str]:
    """Reconstructions in [0,1], and in words what had to be clamped for that; empty where nothing had to.

    Raises:
        DpbenchError: the attack returned something else than finite images, one for each victim.
    """
    if not isinstance(images, Tensor) or images.shape != victims.shape:
        came = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise DpbenchError(f"attack {attack!r} returned {came}; expected images of shape {tuple(victims.shape)}")
    images = images.detach().to(victims.device).float()
    if not bool(images.isfinite().all()):
        raise DpbenchError(f"attack {attack!r} returned NaN or infinite pixels")
    outside = float(((images < -OUTSIDE) | (images > 1 + OUTSIDE)).float().mean())
    words = (
        f"{outside:.1%} of its values, from {float(images.min()):.3g} to {float(images.max()):.3g}" if outside else ""
    )
    return images.clamp(0, 1), words  # PSNR and SSIM assume [0, 1]
