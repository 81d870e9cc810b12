"""Where to split? Each cut of an undefended network: its cost, and what quick attacks make of what crosses."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from dpbench.answers import pairs
from dpbench.answers.advice import Advice, Cut, marked
from dpbench.answers.cuts import cost_of, features_of, probe_accuracy
from dpbench.cells.prepare import Prepared
from dpbench.contract.defense import SplitModel
from dpbench.contract.images import LabelledImages
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError
from dpbench.machine.cache import default_cache
from dpbench.machine.devices import choose_device, compute_exactly
from dpbench.machine.randomness import derive_generator, seeded
from dpbench.metrics.fidelity import ssim
from dpbench.metrics.intervals import mean_interval
from dpbench.models import backbones, splitting
from dpbench.models import weights as sources
from dpbench.models.adapters import encoder
from dpbench.models.spec import Head
from dpbench.protocols.inference.protocol import Inference
from dpbench.running.options import Options
from dpbench.service.costs import TIMED
from dpbench.suite.cell import CellSpec
from dpbench.suite.suite import AttackEntry, BackboneEntry, PluginEntry, Suite

MOST_CUTS = 6
"""Of a network with more stages so many are looked at, the first and the last among them."""

VICTIMS = 32
EPOCHS = 6
"""Of fitting a network whose weights are not at hand, on twice as many images as attackers are taught by."""

STEPS = 150
"""Of teaching a decoder images of 64 pixels or less; of larger ones it takes as much time, down to a fifth."""

SMALL_SIDE = 32
"""Side of the images where no pre-trained network says another one."""

SECONDS = 20.0
"""That sending all images through all cuts may take, about: of slow networks fewer images are taken."""

FEWEST_IMAGES = 48
LARGEST = 1 << 28
"""Values of features that are held at once, at most."""

WIDTH = 32
Progress = Callable[[str], None]


def advise(
    backbone: str,
    *,
    data: str = "leaves",
    weights: str = "auto",
    head: Head = "auto",
    image_size: int | None = None,
    images: int = 1000,
    split_points: list[str] | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Progress = lambda text: None,
) -> Advice:
    """Measure the cuts of a network: what each costs the client, and what quick attacks recover of what crosses.

    Args:
        backbone: a timm model, or `my_net.py:build`.
        data: as in suites.
        weights: likewise.
        head: likewise.
        image_size: side in pixels; None: what pre-trained weights want, else 32.
        images: that attackers and probes are taught by; twice as many private images fit a network, a quarter test it.
        split_points: modules or stage indices; None: the stages, at most `MOST_CUTS`.
        device: auto, cpu, cuda or mps.
        seed: draws the images and the attackers.
        progress: shows a short text.

    Raises:
        DpbenchError: input that cannot be used, or a network that cannot be cut anywhere.
    """
    begun = time.monotonic()
    entry = _entry(backbone, weights, head, [0])
    size = image_size or _own_size(entry)
    names = split_points or _stages(entry, size)
    cell = _cell(entry, names, data, size, images, seed, progress)
    compute_exactly()
    prepared = Prepared(choose_device(device), default_cache())
    prepared.start(cell)
    parts = prepared.parts(cell, progress)
    _, state, source = prepared.backbone(cell, progress)
    model = encoder.create_network(cell.backbone, image_size=size, classes=len(parts.classes), state=state)
    model = model.to(prepared.device).requires_grad_(False)
    classes = len(parts.classes)
    used = _affordable(model, parts.private.images[:TIMED], len(names), images)
    private, auxiliary = _some(parts.private, used), _some(parts.auxiliary, used)
    test = _some(parts.test, max(VICTIMS, used // 4))
    traced = splitting.trace_backbone(model, (3, size, size), name=backbone)
    cuts: list[Cut] = []
    left_out: list[str] = []
    for name in names:
        progress(f"cut at {name}")
        try:
            split = splitting.cut(model, traced, name, classes=classes, name=backbone)
        except DpbenchError as error:
            left_out.append(str(error))
            continue
        split = split.to(prepared.device).requires_grad_(False).eval()
        if any(cut.split_point == split.split_point for cut in cuts):
            continue
        cuts.append(_measured(split, private, auxiliary, test, seed, progress))
    if not cuts:
        raise DpbenchError(
            f"{backbone} cannot be cut: {left_out[0]}" if left_out else f"{backbone} has no split points"
        )
    blurred = auxiliary.images[:].mean(0, keepdim=True)
    victims = test.images[:VICTIMS]
    return Advice(
        backbone=backbone,
        weights=source,
        data=data,
        image_size=size,
        images=used,
        victims=len(victims),
        accuracy=_accuracy(model, test),
        floor=float(ssim(blurred.expand_as(victims).clamp(0, 1), victims).mean()),
        cuts=tuple(marked(cuts)),
        left_out=tuple(left_out),
        seconds=time.monotonic() - begun,
    )


def _entry(backbone: str, weights: str, head: Head, points: list[str | int]) -> BackboneEntry:
    if head == "zero-shot":
        raise DpbenchError("advise looks at the network alone; expected head auto, classifier, probe or knn")
    return BackboneEntry(name=backbone, weights=weights, head=head, epochs=EPOCHS, split_points=points)


def _own_size(entry: BackboneEntry) -> int:
    source = sources.choose(entry.spec())
    if not source.pretrained and source.read is None:
        return SMALL_SIDE
    import timm

    config = timm.get_pretrained_cfg(entry.name, allow_unregistered=True)
    return int(config.input_size[-1]) if config is not None else SMALL_SIDE


def _stages(entry: BackboneEntry, size: int) -> list[str]:
    spec = entry.spec()
    with torch.device("cpu" if spec.own else "meta"):
        stages = backbones.split_points(encoder.create_network(spec, image_size=size, classes=2))
    if len(stages) <= MOST_CUTS:
        return stages
    return [stages[round(i * (len(stages) - 1) / (MOST_CUTS - 1))] for i in range(MOST_CUTS)]


def _cell(
    entry: BackboneEntry, names: list[str], data: str, size: int, images: int, seed: int, progress: Progress
) -> CellSpec:
    """A cell of a suite with this network, undefended: everything that is wrong with the input is said here."""
    suite = Suite(
        name="advice",
        seeds=[seed],
        victims=1,
        dataset=DatasetSpec(
            name=data, image_size=size, private=2 * images, auxiliary=images, test=max(VICTIMS, images // 4)
        ),
        backbones=[entry.model_copy(update={"split_points": names})],
        defenses=[PluginEntry(name="none")],
        attacks=[AttackEntry(name="mean-image")],
    )
    return Inference().shareable(suite, Options(), progress, undefended=True)[0].cell


@torch.no_grad()
def _affordable(model: nn.Module, images: Tensor, cuts: int, wanted: int) -> int:
    """How many images may go through all cuts of a network in `SECONDS`."""
    normalise = backbones.normalisation(model).to(images.device)
    model(normalise(images[:2]))
    begun = time.perf_counter()
    model(normalise(images))
    per_image = (time.perf_counter() - begun) / len(images)
    # private, auxiliary and test images, through about half of the network for each cut
    return min(wanted, max(FEWEST_IMAGES, int(SECONDS / (per_image * cuts * 0.5 * 2.25))))


def _some(part: LabelledImages, count: int) -> LabelledImages:
    return LabelledImages(part.images[:count], part.labels[:count])


def _measured(
    split: SplitModel,
    private: LabelledImages,
    auxiliary: LabelledImages,
    test: LabelledImages,
    seed: int,
    progress: Progress,
) -> Cut:
    """The row of a cut."""
    at_once, side = 64, split.image_shape[1]
    cost = cost_of(split, private.images[:TIMED])
    # of wide features fewer, so that they fit in memory
    most = max(FEWEST_IMAGES, LARGEST // int(np.prod(cost.shape)))
    known = features_of(split, private.images[:most], at_once)
    seen = features_of(split, test.images[:], at_once)
    progress(f"cut at {split.split_point}: probe")
    labelled = LabelledImages(private.images[:most], private.labels[:most])
    probe = probe_accuracy(known, seen, labelled, test.labels, side, split.classes)
    del known
    own = auxiliary.images[:most]
    taught = features_of(split, own, at_once)
    victims, truth = seen[:VICTIMS], test.images[:VICTIMS]
    progress(f"cut at {split.split_point}: closed form")
    found = {"closed form": pairs.closed_form(taught, own, victims)}
    with seeded(seed, own.device):
        found["decoder"] = pairs.decoder(
            taught,
            own,
            victims,
            steps=max(STEPS // 5, min(STEPS, STEPS * 64 * 64 // side**2)),
            width=WIDTH,
            generator=derive_generator(own.device, "advice", split.split_point, seed),
            progress=lambda text: progress(f"cut at {split.split_point}: decoder, {text}"),
        )
    figures = {name: ssim(images, truth).cpu().double() for name, images in found.items()}
    best = torch.stack(list(figures.values())).amax(0).numpy()
    by_attack = {name: float(values.mean()) for name, values in figures.items()}
    return Cut(split.split_point, cost, probe, mean_interval(best), by_attack)


@torch.no_grad()
def _accuracy(model: nn.Module, test: LabelledImages) -> float:
    normalise = backbones.normalisation(model).to(test.labels.device)
    guesses = torch.cat([model(normalise(part)).argmax(1) for part in test.images.split(64)])
    return float((guesses == test.labels).float().mean())
