"""What a suite names, looked up before anything is computed: data, split points, weights, plug-ins' files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from dpbench.contract.plugin import Plugin
from dpbench.contract.spec import PluginSpec
from dpbench.data.embedded.drawing import BUILT_IN
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError
from dpbench.machine.process_state import preserved
from dpbench.models import backbones
from dpbench.models import weights as sources
from dpbench.models.adapters import encoder
from dpbench.models.spec import BackboneSpec
from dpbench.plugins import image_sets
from dpbench.plugins.apart.telling import assert_ready
from dpbench.suite.suite import BackboneEntry


def data_fingerprint(dataset: DatasetSpec, *, hint: str) -> str:
    """Identifies the images, wherever they lie.

    Args:
        dataset: which images.
        hint: where a suite says they can be had; empty where the user named the data.

    Raises:
        DpbenchError: no such data; the hint is part of the message.
    """
    try:
        return image_sets.fingerprint(dataset)
    except DpbenchError as error:
        if not hint:
            raise
        raise DpbenchError(f"{error}. {hint}") from error


def split_names(entry: BackboneEntry, image_size: int) -> list[str]:
    """Module names of the split points, each once.

    Raises:
        DpbenchError: no such backbone or split point, or the backbone cannot classify images of this size.
    """
    spec = entry.spec()
    # no memory, no time: only the names are wanted. A network of one's own was called already, and may need its values
    with torch.device("cpu" if spec.own else "meta"):
        model = encoder.create_network(spec, image_size=image_size, classes=2)
    if not spec.own:
        backbones.assert_classifies(model, image_size=image_size, classes=2, name=entry.name)
    names = [backbones.resolve_split_point(model, point, name=entry.name) for point in entry.split_points]
    return list(dict.fromkeys(names))


def weights_fingerprint(entry: BackboneEntry, image_size: int) -> str:
    """SHA-256 of the backbone's weights file; empty where there is none.

    Raises:
        DpbenchError: weights that are not to be had, or do not fit.
    """
    spec = entry.spec()
    source = sources.choose(spec)
    if spec.weights_file is not None:
        if not spec.own:
            sources.create(spec, source, image_size=image_size, classes=2)
    return sources.fingerprint(spec)


def read_weights(spec: BackboneSpec, image_size: int) -> None:
    """Read a backbone's weights once, so that they are at hand afterwards; nothing where it is fitted.

    Raises:
        DpbenchError: they are not to be had, or do not fit.
    """
    source = sources.choose(spec)
    if source.pretrained or source.read is not None:
        sources.create(spec, source, image_size=image_size, classes=source.classes or 2)


def inputs(plugins: Iterable[PluginSpec], data: Iterable[DatasetSpec], backbone: BackboneSpec) -> list[Path] | None:
    """Files and folders that decide, beside a suite and installed packages, what is measured of these.

    None where that cannot be said: plug-ins that are not dpbench's own or read files, weights and data of which it
    depends on what is at hand.
    """
    if not all(re.fullmatch(r"v[0-9]+", plugin.source) and not plugin.files for plugin in plugins):
        return None
    if ":" in backbone.name:  # a network in a file of its own
        return None
    found = [] if backbone.weights == "fit" else [backbone.weights_file]
    found += [Path(backbone.class_embeddings).expanduser()] if backbone.class_embeddings else []
    for spec in data:
        if spec.name not in BUILT_IN:
            folder = Path(spec.name).expanduser()
            found.append(folder if folder.is_dir() else None)
    known = [path for path in found if path is not None]
    return known if len(known) == len(found) else None


def left_out(*data: DatasetSpec) -> list[str]:
    """What of the folders is not taken, or might be meant otherwise, a line each; of other data sets nothing."""
    return [f"{one.name}: {line}" for one in data for line in image_sets.left_out(one)]


def with_class_order(entries: Sequence[BackboneEntry], dataset: DatasetSpec) -> tuple[list[BackboneEntry], list[str]]:
    """Backbones with what is left to choose decided, and what the user should know of their weights.

    That is the order of a classifier's classes, what tells them apart, and which files are read.

    Raises:
        DpbenchError: weights that are not to be had.
    """
    names, folders = image_sets.classes_of(dataset)
    there, lines = _at_hand(entries)
    decided = []
    for entry in there:
        order, line = sources.class_order(entry.spec(), names, folders=folders)
        lines += [line] if line else []
        head = encoder.head_of(entry.spec(), image_size=dataset.image_size, classes=len(names))
        files = encoder.files_of(entry.spec(), names)
        decided.append(entry.model_copy(update={"class_order": order, "head": head, "files": files}))
    return decided, lines


def _at_hand(entries: Sequence[BackboneEntry]) -> tuple[list[BackboneEntry], list[str]]:
    """Backbones whose weights are on this machine, where they ask for no others, and a line on those left out."""
    there: list[BackboneEntry] = []
    missing: list[str] = []
    for entry in entries:
        if entry.weights != "at-hand":
            there.append(entry)
        elif sources.choose(entry.spec()).label == "fitted":
            missing.append(entry.name)
        else:
            there.append(entry.model_copy(update={"weights": "pretrained"}))
    if not missing:
        return there, []
    line = (
        f"no weights on this machine for {', '.join(dict.fromkeys(missing))}; where there is a network, "
        f"timm.create_model(NAME, pretrained=True) gets them, or weights = FILE names them"
    )
    if not there:
        raise DpbenchError(line)
    return there, [f"left out: {line}"]


def assert_plugins(plugins: Iterable[tuple[Plugin, int | None]]) -> None:
    """Refuse what a plug-in lacks now, rather than hours later.

    Args:
        plugins: each with the size of the images that it is to work on, where there are any.

    Raises:
        DpbenchError: the plug-in's name, and what it says is missing or does not fit.
    """
    for plugin, size in plugins:
        try:
            with preserved():
                assert_ready(plugin, None if size is None else (3, size, size))
        except DpbenchError as error:
            raise DpbenchError(f"{plugin.name}: {error}") from error
