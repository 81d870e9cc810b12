"""What features that came from elsewhere give away: attackers taught by pairs, beside guesses that need none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dpbench.answers import pairs
from dpbench.answers.dump import Dump, images_for, read_dump
from dpbench.errors import DpbenchError
from dpbench.machine.devices import choose_device, compute_exactly
from dpbench.machine.randomness import derive_generator, seeded
from dpbench.metrics.fidelity import ssim
from dpbench.metrics.grading import grade
from dpbench.metrics.intervals import mean_interval
from dpbench.plugins.registry import attacks

HELD_OUT = 4
"""Without a file of victims, one in so many pairs is a victim."""

MOST_VICTIMS = 64
FLOORS = ("mean-image", "random-image", "nearest-auxiliary")

OTHERS = 8
"""Other victims that each reconstruction is compared with, to tell whether it is of its own."""

LEAST_LEARNT = 0.03
"""By how much of SSIM it is nearer to its own at least, where anything was learnt."""

Progress = Callable[[str], None]
Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Attacked:
    """What attackers made of features from elsewhere, and how close it came.

    Attributes:
        pairs: that the attackers were taught by.
        dtype: of the features as they were sent.
        shape: of one image's features.
        bits: of one image's features.
        images: attack -> reconstructions (V,3,H,W) in [0,1].
        figures: attack -> metric -> mean and 95% interval; empty where the victims' images are not known.
        truth: the victims' images, if they are known.
        remarks: what could not run, and why; a line each.
    """

    pairs: int
    dtype: str
    shape: tuple[int, ...]
    bits: int
    images: dict[str, Tensor]
    figures: dict[str, dict[str, Interval]]
    truth: Tensor | None
    remarks: tuple[str, ...]


def attack_features(
    features: Path,
    images: Path,
    *,
    victims: Path | None = None,
    victim_images: Path | None = None,
    image_size: int = 64,
    scale: float | None = None,
    zero_point: float | None = None,
    steps: int = 800,
    width: int = 64,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = lambda text: None,
) -> Attacked:
    """Attack features without their network.

    Args:
        features: of the attacker's own images, see `dump.read_dump`.
        images: the folder of these images.
        victims: features to reconstruct; None: one in four of the pairs, which then teaches nobody.
        victim_images: the folder of their images, to score by; without it nothing is scored.
        image_size: side in pixels.
        scale: of integers, where a file does not say.
        zero_point: likewise.
        steps: of teaching the decoder.
        width: of the decoder.
        seed: draws the decoder, and which pairs are victims.
        device: auto, cpu, cuda or mps.
        progress: shows a short text.

    Raises:
        DpbenchError: input that cannot be used.
    """
    if victim_images is not None and victims is None:
        raise DpbenchError("--victim-images are those of the features in --victims; name both, or neither")
    compute_exactly()
    place = choose_device(device)
    progress("reading")
    known = read_dump(features, scale=scale, zero_point=zero_point)
    own = images_for(known, images, image_size, path=features)
    taught, sought = known.features, known.features
    truth: Tensor | None
    if victims is None:
        taught, own, sought, truth = _divided(taught, own, seed)
    else:
        other = read_dump(victims, scale=scale, zero_point=zero_point)
        _assert_alike(known, other, features, victims)
        sought = other.features[:MOST_VICTIMS]
        truth = None
        if victim_images is not None:
            truth = images_for(other, victim_images, image_size, path=victims)[:MOST_VICTIMS]
            _assert_apart(own, truth)
    taught, own, sought = taught.to(place), own.to(place), sought.to(place)
    generator = derive_generator(place, "attack features", seed)
    found = _guesses(taught, own, sought, generator)
    progress("closed form")
    found["closed form"] = pairs.closed_form(taught, own, sought)
    with seeded(seed, place):
        found["decoder"] = pairs.decoder(
            taught, own, sought, steps=steps, width=width, generator=generator,
            progress=lambda text: progress(f"decoder: {text}"),
        )  # fmt: skip
    progress("scoring")
    figures = {name: _scored(made.cpu(), truth) for name, made in found.items()} if truth is not None else {}
    return Attacked(
        pairs=len(taught),
        dtype=str(known.dtype).removeprefix("torch."),
        shape=tuple(taught.shape[1:]),
        bits=known.bits,
        images={name: made.cpu() for name, made in found.items()},
        figures=figures,
        truth=truth,
        remarks=tuple(_remarks(found, truth)),
    )


def _divided(features: Tensor, images: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pairs to teach by, and others whose images are sought."""
    count = min(MOST_VICTIMS, len(features) // HELD_OUT)
    if not count:
        raise DpbenchError(f"{len(features)} pairs are too few; expected {pairs.FEWEST * HELD_OUT // (HELD_OUT - 1)}")
    order = torch.randperm(len(features), generator=derive_generator(torch.device("cpu"), "held out", seed))
    left, chosen = order[count:].sort().values, order[:count].sort().values
    _assert_apart(images[left], images[chosen])
    return features[left], images[left], features[chosen], images[chosen]


def _assert_alike(known: Dump, other: Dump, features: Path, victims: Path) -> None:
    one, two = (f"{tuple(d.features.shape[1:])} {d.dtype}" for d in (known, other))
    if one != two:
        raise DpbenchError(
            f"{victims} holds features of {two}, and {features} of {one}; expected those of one client in one form"
        )


def _assert_apart(own: Tensor, truth: Tensor) -> None:
    """No image may teach an attacker that it is then sought by."""
    mine = {image.numpy().tobytes() for image in own}
    if any(image.numpy().tobytes() in mine for image in truth):
        raise DpbenchError("some victims are among the images that teach the attackers; expected other images")


@torch.no_grad()
def _guesses(features: Tensor, images: Tensor, victims: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """What looks at no features, or only looks them up."""
    drawn = torch.randint(len(images), (len(victims),), generator=generator, device=generator.device)
    scale = features.flatten(1).std(0).clamp_min(1e-6)
    distances = torch.cdist(victims.flatten(1) / scale, features.flatten(1) / scale)
    mean = images.mean(0, keepdim=True).expand(len(victims), *images.shape[1:])
    return dict(zip(FLOORS, (mean, images[drawn], images[distances.argmin(1)]), strict=True))


def _scored(images: Tensor, truth: Tensor) -> dict[str, Interval]:
    figures, _ = grade(images, truth)
    return {name: mean_interval(np.asarray(values, dtype=np.float64)) for name, values in figures.items()}


def _remarks(found: dict[str, Tensor], truth: Tensor | None) -> list[str]:
    idle = sorted(name for name, cls in attacks().items() if cls.needs != "nothing" and not cls.floor)
    lines = [
        f"not run: {', '.join(idle)}: they need a client that answers queries, or its weights; the decoder here is "
        "taught by the pairs alone"
    ]
    if truth is None:
        return [*lines, "not scored: the victims' images are not known (--victim-images)"]
    if not any(_learnt(found[name].cpu(), truth) for name in ("closed form", "decoder")):
        lines.append(
            "the attackers learnt nothing of these pairs: either the features say nothing, or they are not in the "
            "order of their images (by path, or as `names` in the metadata says)"
        )
    return lines


def _learnt(images: Tensor, truth: Tensor) -> bool:
    """Whether reconstructions are nearer to their victim than to others by SSIM, beyond chance."""
    others = range(1, min(OTHERS + 1, len(truth)))
    apart = torch.stack([ssim(images, truth.roll(places, 0)) for places in others]).mean(0)
    mean, low, _ = mean_interval((ssim(images, truth) - apart).cpu().double().numpy())
    return low > 0 and mean > LEAST_LEARNT
