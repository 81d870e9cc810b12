"""Where a backbone's weights come from: a file, timm, a package that carries them, or fitted here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import timm
import torch
from torch import nn

from dpbench.errors import DpbenchError
from dpbench.machine.cache import State
from dpbench.models import backbones
from dpbench.models.adapters.class_order import order_of, rows_for
from dpbench.models.carriers import at_hand, carrier_of, read_backbone
from dpbench.models.checkpoints import Checkpoint, misfit, read_checkpoint, sha256_of
from dpbench.models.spec import WEIGHTS, BackboneSpec, ClassOrder


@dataclass(frozen=True)
class WeightsSource:
    """The weights that a backbone starts from.

    Attributes:
        label: "fitted", "own" for those that a network of one's own is built with, "pretrained:" and timm's tag,
            "carrier:" and a package, or "file:" and the start of its SHA-256; goes into records and cache keys.
        pretrained: whether timm loads the weights.
        classes: of the classifier that comes with them; 0 where that is not known before they are read.
        read: gives the weights under timm's names, where it is not timm that loads them.
    """

    label: str
    pretrained: bool = False
    classes: int = 0
    read: Callable[[], Checkpoint] | None = None


def fingerprint(spec: BackboneSpec) -> str:
    """SHA-256 of the weights file that a backbone names; empty where it names none.

    Raises:
        DpbenchError: there is no such file.
    """
    path = spec.weights_file
    if path is None:
        return ""
    if not path.is_file():
        raise DpbenchError(
            f"there is no weights file {spec.weights!r} for backbone {spec.name!r}; "
            f"expected a FILE (.safetensors, .pth), or one of {', '.join(WEIGHTS)}"
        )
    return sha256_of(path)


def choose(spec: BackboneSpec, *, expected: str = "") -> WeightsSource:
    """Decide by `spec.weights`; `auto` takes pre-trained weights only if they are already on this machine.

    Args:
        spec: the backbone.
        expected: what `fingerprint` gave when the run was planned, if it did.

    Raises:
        DpbenchError: a file that is not there or has changed; or pre-trained weights were asked for, and there are
            none for this model.
    """
    if spec.program and spec.weights != "auto":
        raise DpbenchError(f"backbone {spec.name!r} is a program, which holds its weights; leave weights out")
    path = spec.weights_file
    if path is not None:
        digest = fingerprint(spec)
        if expected and digest != expected:
            raise _changed(spec)
        return WeightsSource(f"file:{digest[:16]}", read=functools.partial(_read_unchanged, spec, path, digest))
    if spec.weights == "fit" and spec.own and spec.headed:
        raise DpbenchError(
            f"backbone {spec.name!r}: weights = 'fit' trains a network by its own logits, and head = {spec.head!r} "
            "asks for its features; use weights = 'auto' or a FILE, or head = 'classifier'"
        )
    if spec.weights == "fit":
        return WeightsSource("fitted")
    if spec.own:
        return WeightsSource("own")
    config = timm.get_pretrained_cfg(spec.name, allow_unregistered=True)
    of_timm = None
    if config is not None and config.has_weights:
        tag = f".{config.tag}" if config.tag else ""
        of_timm = WeightsSource(f"pretrained:{config.architecture or spec.name}{tag}", True, config.num_classes)
        if _at_hand(config):
            return of_timm
    carrier = carrier_of(spec.name)  # a name with a tag asks for timm's very file
    if carrier is not None and at_hand(carrier):
        return WeightsSource(
            f"carrier:{carrier.requirement}",
            classes=carrier.classes,
            read=lambda: Checkpoint(read_backbone(carrier)),
        )
    if spec.weights in ("auto", "at-hand"):
        return WeightsSource("fitted")
    if of_timm is None:
        similar = timm.list_models(spec.name.split(".")[0] + "*", pretrained=True)[:5]
        raise DpbenchError(
            f"timm has no pre-trained weights for {spec.name!r}; "
            f'use weights = "fit", or one of {", ".join(similar) or "(none)"}'
        )
    return of_timm


def _read_unchanged(spec: BackboneSpec, path: Path, digest: str) -> Checkpoint:
    """What is in the file, if it is still the one of that hash once it was read."""
    found = read_checkpoint(path)
    if fingerprint(spec) != digest:
        raise _changed(spec)
    return found


def _changed(spec: BackboneSpec) -> DpbenchError:
    return DpbenchError(f"weights {spec.weights} have changed since the run was planned; run again")


def class_order(spec: BackboneSpec, names: Sequence[str], *, folders: bool) -> tuple[ClassOrder, str]:
    """`spec.class_order` with `auto` decided, and what else is to be known of the weights: lines for the user.

    Where it makes no difference, or there is no classifier for these classes, it stays `auto`.

    Args:
        spec: the backbone.
        names: of the data's classes, in the order of the labels; empty where they are not known yet.
        folders: the data is a folder of class folders.
    """
    source = choose(spec)
    found = source.read() if spec.weights_file is not None and source.read is not None else None
    averaged = (
        f"weights {spec.weights} hold {found.averaged} too, which is not taken" if found and found.averaged else ""
    )
    known = classes_in(found.state, spec) if found else source.classes
    if spec.class_order != "auto" or not names or known != len(names):
        return spec.class_order, averaged
    order, said = order_of(names, found.classes if found else (), folders=folders)
    said = f"weights {spec.weights if found else source.label}: {said}" if said else ""
    return order, "; ".join(filter(None, (averaged, said)))


def create(
    spec: BackboneSpec, source: WeightsSource, *, image_size: int, classes: int, names: Sequence[str] = ()
) -> tuple[nn.Module, bool]:
    """The unsplit network with these weights, and whether it already tells these classes apart.

    A classifier for another number of classes is replaced by a fresh one; everything else has to fit.

    Args:
        spec: the backbone; `class_order` says how the rows of its classifier follow each other.
        source: what `choose` gave.
        image_size: side in pixels.
        classes: how many there are.
        names: of the classes, in the order of the labels: the rows of the classifier are put in it. Empty: they stay.

    Raises:
        DpbenchError: the network cannot be made, or the weights are damaged or of another architecture.
    """
    if source.read is None:
        model = backbones.create_backbone(spec, image_size=image_size, classes=classes, pretrained=source.pretrained)
        fits = (source.pretrained and source.classes == classes) or source.label == "own"
        if fits and names:
            _reorder(model, spec, rows_for(spec.class_order, names, ()))
        return model, fits
    model, own, found = load(spec, source, image_size=image_size, classes=classes)
    if spec.own:
        return model, True
    if own != classes:
        model.reset_classifier(classes)  # type: ignore[operator]
    elif names:
        _reorder(model, spec, rows_for(spec.class_order, names, found.classes))
    return model.eval(), own == classes


def load(
    spec: BackboneSpec, source: WeightsSource, *, image_size: int, classes: int = 0
) -> tuple[nn.Module, int, Checkpoint]:
    """The network as its weights have it, the number of its classes (0 for none), and what the file holds.

    Args:
        spec: the backbone.
        source: what `choose` gave; it reads the weights.
        image_size: side in pixels.
        classes: that a network of one's own is made with.

    Raises:
        DpbenchError: the weights are damaged or of another architecture.
    """
    assert source.read is not None
    found = source.read()
    if spec.own:
        found = found.fitting(backbones.create_backbone(spec, image_size=image_size, classes=classes).state_dict())
    state = found.state
    own = classes if spec.own else classes_in(state, spec)
    try:
        return backbones.create_backbone(spec, image_size=image_size, classes=own, state=state), own, found
    except DpbenchError as error:
        with torch.device("cpu" if spec.own else "meta"):  # without the weights: is it they that do not fit?
            bare = backbones.create_backbone(spec, image_size=image_size, classes=own)
        raise DpbenchError(
            f"weights {spec.weights if spec.weights_file else source.label} do not fit backbone {spec.name!r}: "
            f"{misfit(state, bare) or error}; use weights of this architecture, under {_whose(spec)} names"
        ) from error


def form_of(spec: BackboneSpec, source: WeightsSource, state: State) -> str:
    """How a file of weights came: what they were under, and what was taken off their names, in brackets.

    Empty where they came from no file, or as they should be.

    Args:
        spec: the backbone.
        source: what `choose` gave.
        state: of the network that they were loaded into.
    """
    if spec.weights_file is None or source.read is None:
        return ""
    found = source.read()
    if spec.own:
        found = found.fitting([name for name in state if not name.startswith("dpbench_")])
    return f" ({found.form})" if found.form else ""


def _whose(spec: BackboneSpec) -> str:
    return "its" if spec.own else "timm's"


def classes_in(state: State, spec: BackboneSpec) -> int:
    """Number of rows (classes) of the classifier in a state dict; 0 where it has none."""
    names = _classifiers(spec)
    return next((len(state[f"{name}.weight"]) for name in names if f"{name}.weight" in state), 0)


def _classifiers(spec: BackboneSpec) -> list[str]:
    """Names of the last layers: one, or several where a network has them for distillation."""
    config = timm.get_pretrained_cfg(spec.name, allow_unregistered=True)
    named = config.classifier if config is not None else None
    return [named] if isinstance(named, str) else list(named or ())


def _reorder(model: nn.Module, spec: BackboneSpec, rows: list[int] | None) -> None:
    if rows is None:
        return
    for name in _classifiers(spec):
        for value in model.get_submodule(name).parameters():
            value.data = value.data[rows]


def _at_hand(config: timm.models.PretrainedCfg) -> bool:
    if config.file and Path(config.file).is_file():
        return True
    if config.url and (Path(torch.hub.get_dir()) / "checkpoints" / config.url.rsplit("/", 1)[-1]).is_file():
        return True
    if not config.hf_hub_id:
        return False
    names = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    found = (huggingface_hub.try_to_load_from_cache(config.hf_hub_id, name) for name in names)
    return any(isinstance(path, str) for path in found)
