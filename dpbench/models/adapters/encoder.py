"""Encoders: networks without a classifier, and what tells classes apart on top of them.

The network is left as it is. What it makes of an image in the end is pooled and read by a head: a linear probe, the
nearest of the private images, or embeddings of the classes. The head is the last part of the server's half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpbench.contract.images import LabelledImages
from dpbench.errors import DpbenchError
from dpbench.machine.cache import State
from dpbench.models import backbones, weights
from dpbench.models.adapters import builder
from dpbench.models.adapters.linear import fit_linear
from dpbench.models.adapters.neighbours import Neighbours
from dpbench.models.adapters.zero_shot import ZeroShot, read_class_embeddings
from dpbench.models.checkpoints import sha256_of
from dpbench.models.spec import BackboneSpec
from dpbench.models.spec import Head as HeadName
from dpbench.models.weights import WeightsSource

VERSION = 1
"""Raise it whenever a head is fitted otherwise: part of the key of every cached network that has one."""

HEAD = "dpbench_head"
"""The module of a network that holds its head."""

BATCH_SIZE = 128


class Head(nn.Module):
    """Reads the final features of a network.

    Args:
        readout: (N,D) -> logits (N, classes).
        last: whether the channels of maps come last.
    """

    def __init__(self, readout: nn.Module, *, last: bool) -> None:
        super().__init__()
        self.readout = readout
        self.last = last

    def forward(self, features: Tensor) -> Tensor:
        """Vectors (N,D), tokens (N,L,D) or maps -> logits (N, classes)."""
        read = pooled(features, last=self.last)
        if read.dtype != torch.float32:  # a program may send halves
            read = read.float()
        logits: Tensor = self.readout(read)
        return logits


def pooled(features: Tensor, *, last: bool) -> Tensor:
    """Vectors as they are, the mean of tokens (N,L,D), the mean of maps over their places: (N,D)."""
    if features.ndim == 2:
        return features
    if features.ndim == 3:
        return features.mean(1)
    return features.mean((1, 2) if last else (2, 3))


def head_of(spec: BackboneSpec, *, image_size: int, classes: int) -> HeadName:
    """`spec.head` with `auto` decided: a probe where the weights come without a classifier; else it stays `auto`.

    A network of one's own is called to see what it gives.

    Args:
        spec: the network.
        image_size: side in pixels.
        classes: of the data; 0 where that is not known yet.

    Raises:
        DpbenchError: weights that are not to be had, or a network of one's own that is of no use.
    """
    if spec.own:
        return _head_of_own(spec, image_size, classes)
    if spec.head != "auto":
        return spec.head
    source = weights.choose(spec)
    if spec.weights_file is not None and source.read is not None:
        return "auto" if weights.classes_in(source.read().state, spec) else "probe"
    return "probe" if source.pretrained and not source.classes else "auto"


def _head_of_own(spec: BackboneSpec, image_size: int, classes: int) -> HeadName:
    told = 0 if spec.headed else classes
    width = builder.looked_at(spec, image_size=image_size, classes=told)
    source = weights.choose(spec)
    if source.read is not None:
        weights.load(spec, source, image_size=image_size, classes=told)
    if spec.headed or not classes or width == classes:
        return spec.head
    if spec.head == "classifier" or spec.weights == "fit":
        raise DpbenchError(
            f"backbone {spec.name!r} gives {width or 'no'} logits for {classes} classes; give {classes} (a parameter "
            "`classes` of the function is told), or use head = 'probe'"
        )
    return "probe"


def files_of(spec: BackboneSpec, names: Sequence[str]) -> dict[str, str]:
    """What is read beside the weights -> SHA-256; looked through, so that a run does not fail on it later.

    Args:
        spec: the network.
        names: of the data's classes; empty where they are not known yet.

    Raises:
        DpbenchError: a file that is not there, is damaged, or is of other classes.
    """
    own = builder.files_of(spec) if spec.own else {}
    if spec.head != "zero-shot":
        return own
    path = Path(spec.class_embeddings).expanduser()
    if names:
        read_class_embeddings(path, names)
    return {**own, "class_embeddings": sha256_of(path)}


def create_network(spec: BackboneSpec, *, image_size: int, classes: int, state: State | None = None) -> nn.Module:
    """The unsplit network in eval mode, with its head where it has one: normalised images to logits.

    Args:
        spec: the network.
        image_size: side in pixels.
        classes: number of logits.
        state: its fitted weights, to be loaded; None: its weights are of no matter.

    Raises:
        DpbenchError: the network cannot be made.
    """
    if not spec.headed:
        model = backbones.create_backbone(spec, image_size=image_size, classes=classes)
    else:
        encoder = backbones.create_backbone(spec, image_size=image_size, classes=_projected(spec, state))
        model = with_head(encoder, _outline(encoder, spec, image_size, classes, state or {}))
    if state is not None:
        model.load_state_dict(state)
    return model


def create_encoder(
    spec: BackboneSpec, source: WeightsSource, *, image_size: int, classes: int
) -> tuple[nn.Module, bool]:
    """The network without its head, and whether that is all; else it has a classifier that is to be fitted first.

    Args:
        spec: of a network with a head.
        source: what `weights.choose` gave.
        image_size: side in pixels.
        classes: of the classifier that goes once it has been fitted.

    Raises:
        DpbenchError: as `weights.create`.
    """
    if source.read is None:
        kept = source.classes if spec.head == "zero-shot" else 0
        fitted = source.label == "fitted"
        rows = classes if fitted else kept
        model = backbones.create_backbone(spec, image_size=image_size, classes=rows, pretrained=source.pretrained)
        return model, not fitted
    model, own, _ = weights.load(spec, source, image_size=image_size)
    return (_without_classifier(model, spec, image_size) if own and spec.head != "zero-shot" else model), True


def fit_head(
    model: nn.Module,
    spec: BackboneSpec,
    private: LabelledImages,
    *,
    image_size: int,
    names: Sequence[str],
    fitted: bool,
    progress: Callable[[str], None],
) -> nn.Module:
    """A network with its head, which is fitted on the final features of the private images.

    Args:
        model: what `create_encoder` gave, on the device of the images.
        spec: of a network with a head.
        private: (N,3,H,W) in [0,1], and labels.
        image_size: side in pixels.
        names: of the classes.
        fitted: it has a classifier that was fitted, and goes.
        progress: shows a short text.

    Raises:
        DpbenchError: the network gives no features, or the class embeddings do not fit them.
    """
    device = private.images.device
    encoder = _without_classifier(model, spec, image_size).to(device) if fitted else model
    if spec.head == "zero-shot":
        given = _embeddings(spec, names)
        width = _features(encoder, private.images[:1]).shape[1]
        if given.shape[1] != width:
            raise DpbenchError(
                f"class embeddings {spec.class_embeddings} are {given.shape[1]} wide, and {spec.name} gives "
                f"{width} features; use those of the text tower that belongs to it"
            )
        readout: nn.Module = ZeroShot(given)
    else:
        progress(f"{spec.head}: final features of {len(private)} images")
        size = private.training_batch(BATCH_SIZE)
        features = torch.cat([_features(encoder, batch).cpu() for batch in private.images.split(size)])
        labels = private.labels.cpu()
        if spec.head == "probe":
            progress("probe: ridge regression")
            readout = fit_linear(features, labels, len(names))
        else:
            readout = Neighbours(features, labels, len(names))
    return with_head(encoder, Head(readout, last=_last(encoder)).to(device))


def with_head(encoder: nn.Module, head: nn.Module | None) -> nn.Module:
    """The same network, whose outcome goes through `head`; its modules keep their names. In eval mode."""
    if head is not None:
        encoder.add_module(HEAD, head)
        encoder.register_forward_hook(_through_head)
    return encoder.eval()


def _through_head(network: nn.Module, args: Any, outcome: Any) -> Any:
    return network.get_submodule(HEAD)(outcome)


@torch.no_grad()
def _features(encoder: nn.Module, images: Tensor) -> Tensor:
    """Pooled final features (N,D) of images (N,3,H,W) in [0,1]."""
    normalise = backbones.normalisation(encoder).to(images.device)
    features = encoder(normalise(images))
    if not isinstance(features, Tensor) or features.ndim not in (2, 3, 4) or len(features) != len(images):
        came = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise DpbenchError(
            f"the network gives {came} for {len(images)} images; expected final features: vectors (N,D), tokens "
            "(N,L,D) or maps (N,C,H,W)"
        )
    return pooled(features, last=_last(encoder)).float()


def _last(encoder: nn.Module) -> bool:
    return getattr(encoder, "output_fmt", "NCHW") == "NHWC"


def _outline(encoder: nn.Module, spec: BackboneSpec, image_size: int, classes: int, state: State) -> Head | None:
    """A head of the right shapes; None where the width of the features cannot be told without values."""
    place = next(iter(encoder.parameters()), torch.empty(0)).device
    stored = {name.rpartition(".")[2]: value for name, value in state.items() if name.startswith(f"{HEAD}.")}
    try:
        widths = [value.shape[-1] for name, value in stored.items() if name in ("weight", "bank", "classes")]
        images = torch.zeros(1, 3, image_size, image_size, device=place)
        width = widths[0] if widths else _features(encoder, images).shape[1]
    except NotImplementedError:
        return None
    labels = torch.arange(len(stored["bank"]) if "bank" in stored else classes) % classes
    readout: nn.Module
    if spec.head == "probe":
        readout = nn.Linear(width, classes)
    elif spec.head == "knn":
        readout = Neighbours(torch.zeros(len(labels), width), labels, classes)
    else:
        readout = ZeroShot(torch.zeros(classes, width))
    return Head(readout, last=_last(encoder)).to(place)


def _projected(spec: BackboneSpec, state: State | None) -> int:
    """Width of the projection that a network ends in, where that is read and not left out."""
    if spec.head != "zero-shot":
        return 0
    return weights.classes_in(state, spec) if state is not None else weights.choose(spec).classes


def _without_classifier(model: nn.Module, spec: BackboneSpec, image_size: int) -> nn.Module:
    encoder = backbones.create_backbone(spec, image_size=image_size, classes=0)
    state = model.state_dict()
    missing, _ = encoder.load_state_dict(state, strict=False)
    if missing:
        raise DpbenchError(
            f"backbone {spec.name!r} has no final features without its classifier (missing: {missing[0]}); "
            'use head = "classifier"'
        )
    return encoder


def _embeddings(spec: BackboneSpec, names: Sequence[str]) -> Tensor:
    path = Path(spec.class_embeddings).expanduser()
    given = read_class_embeddings(path, names)
    if sha256_of(path) != spec.files.get("class_embeddings", sha256_of(path)):
        raise DpbenchError(f"class embeddings {path} have changed since the run was planned; run again")
    return given
