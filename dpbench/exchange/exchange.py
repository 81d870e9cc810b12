"""What one entity sends and another takes: released features of private images, and whether they fit a network."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dpbench.cells.prepare import Prepared
from dpbench.contract.defense import ProtectedModel
from dpbench.errors import DpbenchError
from dpbench.exchange.entropy import fresh_generator
from dpbench.exchange.feature_file import SharedFeatures, assert_new, read_features, write_features
from dpbench.exchange.feature_header import Cut, FeatureHeader, Network, assert_agrees, layout_of
from dpbench.machine.cache import default_cache
from dpbench.machine.devices import choose_device, compute_exactly
from dpbench.machine.randomness import derive_generator
from dpbench.plugins.registry import find_defense
from dpbench.protocols.known import loaded
from dpbench.protocols.sharing.pipeline import groups_of, mean_of_groups
from dpbench.running.options import Options
from dpbench.running.unit import Shareable
from dpbench.service.quantisation import quantisation_of, understood
from dpbench.service.release import checked_features, predict_in_batches, release_in_batches
from dpbench.suite.cell import CellSpec

AT_ONCE = 1024
"""Images whose features are on the device at once. A constant: with a release seed the noise hangs on it."""

SHOWN = 12
"""How many choices an error lists."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Received:
    """A file that fits, and what the receiver's undefended server tail makes of it.

    Attributes:
        shared: the content of the file.
        correct: (N,) bool, whether the likeliest class is the label.
    """

    shared: SharedFeatures
    correct: Tensor


def export_features(
    suite: str,
    output: Path,
    *,
    only: str | None = None,
    data: str | None = None,
    weights: str | None = None,
    seed: int | None = None,
    device: str = "auto",
    release_seed: int | None = None,
    progress: Progress = lambda text: None,
) -> FeatureHeader:
    """Release a suite's private images behind one defense, and write them to a file.

    Backbone and defense are those that `dpbench run` fits, under the same keys of the cache.

    Args:
        suite: a built-in name or a path of a TOML file.
        output: the file, where nothing may be yet.
        only: a shell pattern that occurs in one `dpbench.suite.words.setting` alone.
        data: overrides the suite's data set.
        weights: overrides those of the suite's only backbone.
        seed: overrides the suite's seeds.
        device: auto, cpu, cuda or mps.
        release_seed: draws the noise of a stochastic defense, the same each time: for tests. Whoever learns it can
            subtract the noise. None: from the operating system's entropy.
        progress: shows a short text.

    Returns:
        The header of the file.

    Raises:
        DpbenchError: input that cannot be used, several settings or none, a file that is there already. Nothing is
            written.
    """
    assert_new(output)
    options = Options(data=data, weights=weights, seed=seed)
    chosen = _one(suite, only, options, progress, undefended=False)
    cell, prepared = chosen.cell, _prepared(device, chosen)
    private = prepared.parts(cell, progress).private
    protected = prepared.protected(cell, cell.defense, progress)
    if release_seed is None:
        generator, order = fresh_generator(prepared.device), fresh_generator(prepared.device)
    else:
        # the key keeps two files with one seed from sharing their noise
        key = prepared.protected_key(cell, cell.defense, progress)
        generator = derive_generator(prepared.device, key, "share", release_seed)
        order = derive_generator(prepared.device, key, "share order", release_seed)
    progress("releasing")
    windows = (
        private.images.narrow(0, start, min(AT_ONCE, len(private) - start)) for start in range(0, len(private), AT_ONCE)
    )
    released = (release_in_batches(protected, window, generator, order) for window in windows)
    features = torch.cat([checked_features(window).cpu() for window in released])
    if (together := cell.defense.mixed_images) > 1:
        # the groups of the run, each time: what another grouping shows beside them would undo the means
        drawn = derive_generator(prepared.device, prepared.protected_key(cell, cell.defense, progress), "mix")
        groups = groups_of(private.labels, together, drawn)
        features = mean_of_groups(understood(protected, features), [places.cpu() for places in groups])
    # not `cell.defense`: it holds the parameters, and of a plug-in in a file the path and a hash to test guesses on
    defense = find_defense(cell.defense.name)
    return write_features(
        output,
        features,
        private.labels,
        network=_network(prepared, cell, protected, features, progress),
        defense=defense.name,
        defense_version=defense.version,
        quantisation=quantisation_of(protected),
    )


def import_features(
    path: Path,
    suite: str,
    *,
    only: str | None = None,
    data: str | None = None,
    weights: str | None = None,
    seed: int | None = None,
    device: str = "auto",
    progress: Progress = lambda text: None,
) -> Received:
    """Check a file against the public network of a suite, and let that network's server tail predict from it.

    Args:
        path: of the file.
        suite: the receiver's; its defenses and attacks do not matter.
        only: a shell pattern that occurs in one `dpbench.suite.words.setting` of the undefended network alone.
        data: overrides the suite's data set.
        weights: overrides those of the suite's only backbone.
        seed: overrides the suite's seeds.
        device: auto, cpu, cuda or mps.
        progress: shows a short text.

    Raises:
        DpbenchError: input that cannot be used, or a file that is damaged or of another network.
    """
    shared = read_features(path)
    options = Options(data=data, weights=weights, seed=seed)
    chosen = _one(suite, only, options, progress, undefended=True)
    cell = chosen.cell
    assert_agrees(path, shared.header, _cut(cell))  # before minutes of fitting
    prepared = _prepared(device, chosen)
    server = prepared.protected(cell, cell.defense, progress)
    with torch.no_grad():
        smashed = server.features(torch.zeros(1, *server.split.image_shape, device=prepared.device))
    assert_agrees(path, shared.header, _network(prepared, cell, server, smashed, progress))
    progress("predicting")
    order = derive_generator(prepared.device, "share import")
    logits = [
        predict_in_batches(server, shared.meant(part).to(prepared.device, smashed.dtype), order).cpu()
        for part in shared.features.split(AT_ONCE)
    ]
    return Received(shared, torch.cat(logits).argmax(dim=1) == shared.labels)


def _one(suite: str, only: str | None, options: Options, progress: Progress, *, undefended: bool) -> Shareable:
    """The only setting of a suite that is called `only`, else the only one in which that pattern occurs."""
    protocol, chosen = loaded(suite)
    everything = protocol.shareable(chosen, options, progress, undefended=undefended)
    found = [one for one in everything if one.name == only] or [
        one for one in everything if only is None or fnmatch.fnmatchcase(one.name, f"*{only}*")
    ]
    if len(found) != 1:
        given = "without --only there are" if only is None else f"--only {only!r} matches"
        choices = [one.name for one in found or everything]
        more = f" and {len(choices) - SHOWN} more" if len(choices) > SHOWN else ""
        raise DpbenchError(
            f"{given} {len(found)} settings, expected exactly one; choose one of: {'; '.join(choices[:SHOWN])}{more}"
        )
    return found[0]


def _prepared(device: str, chosen: Shareable) -> Prepared:
    compute_exactly()  # as in runs
    prepared = chosen.prepare(choose_device(device), default_cache())
    prepared.start(chosen.cell)
    return prepared


def _cut(cell: CellSpec) -> Cut:
    identity = cell.backbone_identity
    return Cut(
        backbone=identity["name"],
        backbone_args=identity["args"],
        image_size=cell.dataset.image_size,
        split_point=cell.split_point,
    )


def _network(
    prepared: Prepared, cell: CellSpec, model: ProtectedModel, features: Tensor, progress: Progress
) -> Network:
    """What a feature file says of the public network of a cell whose client releases such features (N, ...)."""
    _, _, backbone_weights = prepared.backbone(cell, progress)
    names = tuple(prepared.parts(cell, progress).classes)
    shape = tuple(features.shape[1:])
    return Network(
        **dict(_cut(cell)),
        shape=shape,
        layout=layout_of(shape),
        packed=model.split.packed,
        classes=len(names),
        class_names=names,
        # where the weights came from stays out: only what they are must be the same
        weights_hash=backbone_weights.rpartition("sha256:")[2],
    )
