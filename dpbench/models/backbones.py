"""timm backbones: creating them, the normalisation they want, and the names of their split points."""

from __future__ import annotations

import difflib
import fnmatch
import functools
import re
import warnings
from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from dpbench.errors import DpbenchError, unknown
from dpbench.models.adapters import builder
from dpbench.models.spec import BackboneSpec


class Normalise(nn.Module):
    """Images in [0,1] -> the backbone's own mean and standard deviation, per channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """(N,3,H,W) in [0,1] -> the same shape, normalised."""
        return (images - self.mean) / self.std


def normalisation(model: nn.Module) -> Normalise:
    """The layer that a timm model wants before it: the mean and deviation of its pre-training."""
    mean, std = builder.stated_normalisation(getattr(model, "default_cfg", None) or {})
    return Normalise(tuple(mean.tolist()), tuple(std.tolist()))


def create_backbone(
    spec: BackboneSpec,
    *,
    image_size: int,
    classes: int,
    pretrained: bool = False,
    state: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """The unsplit network for square images of `image_size`, in eval mode.

    Args:
        spec: timm's name, or `my_net.py:build`, and arguments; where the weights come from is decided elsewhere.
        image_size: side in pixels.
        classes: number of logits.
        pretrained: load the weights that timm knows, from this machine or a hub.
        state: load these instead; every tensor has to fit. Position embeddings are resized to the image.

    Raises:
        DpbenchError: timm knows no such model; the model does not take these arguments, this image size or these
            weights; or its weights cannot be downloaded.
    """
    if spec.own:
        return _own(spec, image_size, classes, state)
    known = timm.list_models()
    if spec.name.split(".")[0] not in known:
        raise unknown("backbone", spec.name, difflib.get_close_matches(spec.name, known, n=5, cutoff=0.4))
    if "num_classes" in spec.args:
        raise DpbenchError(
            f"backbone {spec.name!r}: args set num_classes = {spec.args['num_classes']!r}, "
            "but how many classes there are is for the data to say; remove it"
        )
    arguments: dict[str, Any] = {"num_classes": classes, **spec.args}
    if state is not None:
        # timm loads them as its own, resizing what depends on the image; strictly, as the classes are the same
        given = {"state_dict": dict(state), "num_classes": classes, "label_offset": 0}
        arguments["pretrained_cfg_overlay"] = {**spec.args.get("pretrained_cfg_overlay", {}), **given}
    attempts = [arguments] if "img_size" in arguments else [{**arguments, "img_size": image_size}, arguments]
    for attempt in attempts:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # timm warns of re-mapped names
                model: nn.Module = timm.create_model(spec.name, pretrained=pretrained or state is not None, **attempt)
            if state is not None:
                # else they would stay in memory beside the model
                model.pretrained_cfg.pop("state_dict")  # type: ignore[operator,union-attr]
            return model.eval()
        except TypeError as error:
            # convolutional families take no img_size: they need no telling
            if attempt is not attempts[-1] and "img_size" in str(error):
                continue
            raise DpbenchError(f"backbone {spec.name!r} does not take these args: {error}") from error
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())}"
            advice = "; run `dpbench doctor` to see which weights are at hand" if pretrained else ""
            raise DpbenchError(f"backbone {spec.name!r} cannot be made: {text}{advice}") from error
    raise AssertionError("unreachable: the last attempt returns or raises")


def _own(spec: BackboneSpec, image_size: int, classes: int, state: Mapping[str, Tensor] | None) -> nn.Module:
    model = builder.build(spec, image_size=image_size, classes=classes)
    if state is not None:
        try:
            model.load_state_dict(dict(state))
        except RuntimeError as error:
            raise DpbenchError(f"backbone {spec.name!r} does not take the weights") from error
    return model


OWN_LEVELS = 2
"""How deep modules of a network without a table of stages are split points by number."""

MISNAMED = {
    "HighResolutionNet": ((r"^stem$", "act2"), (r"^stage1$", "layer1")),
    "TResNet": ((r"^$", "body.conv1"),),
    "MultiScaleVit": ((r"^block\.", "stages."),),
    "Twins": ((r"^block\.", "blocks."),),
    "Gemma4VitClassifier": ((r"^blocks\.", "encoder.blocks."),),
}
"""Class of a timm model -> names in its `feature_info` that no module has, and what they mean."""


def split_points(model: nn.Module) -> list[str]:
    """The modules named by the stages of timm's `feature_info`, shallow to deep: what stage indices count.

    Of a network of one's own that has no such table, its modules within modules of two levels.
    """
    modules = dict(model.named_modules())
    if not hasattr(model, "feature_info"):
        return [name for name in modules if name and name.count(".") < OWN_LEVELS and not name.startswith("dpbench_")]
    names = []
    for stage in getattr(model, "feature_info", []):
        name = str(stage["module"])
        for pattern, meant in MISNAMED.get(type(model).__name__, ()):
            name = re.sub(pattern, meant, name)
        names.append(name)
    return [name for name in dict.fromkeys(names) if name in modules]


def resolve_split_point(model: nn.Module, split_point: str | int, *, name: str) -> str:
    """The module name of a split point given by name or by stage index.

    Raises:
        DpbenchError: there is no such module or stage; the message suggests the nearest.
    """
    stages = split_points(model)
    text = str(split_point)
    if text.isascii() and text.isdigit():  # other digits, such as a superscript, are none of `int`
        if len(text) > 9 or int(text) >= len(stages):
            raise DpbenchError(
                f"split point {text} is not in {name}; it has stages 0 to {len(stages) - 1}: {', '.join(stages)}"
            )
        return stages[int(text)]
    if not text or text not in dict(model.named_modules()):
        near = difflib.get_close_matches(text, [n for n, _ in model.named_modules() if n], n=1, cutoff=0.4)
        suggestion = f" did you mean {near[0]!r}?" if near else ""
        raise DpbenchError(f"split point {text!r} is not in {name};{suggestion} its stages: {', '.join(stages)}")
    return text


@functools.cache
def backbone_names(pattern: str = "*") -> tuple[str, ...]:
    """Timm's model names that match a shell pattern (a bare word matches anywhere in the name)."""
    names: list[str] = timm.list_models()
    wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    return tuple(name for name in names if fnmatch.fnmatch(name, wanted))


def describe_split_points(name: str) -> list[str]:
    """The split points of a model by name, without allocating its weights."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return split_points(timm.create_model(name, pretrained=False))


def assert_classifies(model: nn.Module, *, image_size: int, classes: int, name: str) -> None:
    """Send shapes through a network on the meta device, which neither allocates nor computes.

    Args:
        model: on the meta device, in eval mode.
        image_size: side in pixels.
        classes: the number of logits it was made for.
        name: of the backbone, for messages.

    Raises:
        DpbenchError: it does not take images of this size, or gives no logits.
    """
    images = torch.zeros(2, 3, image_size, image_size, device="meta")
    try:
        with torch.no_grad():
            logits = model(images)
    except Exception as error:
        if isinstance(error, NotImplementedError) or "meta" in str(error):
            return  # it needs values, not only shapes: the run will show
        config: dict[str, Any] = getattr(model, "default_cfg", None) or {}
        size: tuple[int, ...] = config.get("input_size") or ()
        made_for = f" (it was made for {size[-2]} x {size[-1]})" if len(size) > 1 else ""
        reason = (" ".join(str(error).split()) or type(error).__name__)[:160]
        raise DpbenchError(
            f"backbone {name!r} does not take images of {image_size} x {image_size}: {reason}; "
            f"choose another dataset.image_size{made_for}"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (2, classes):
        came = f"a tensor of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise DpbenchError(
            f"backbone {name!r} has no classifier: expected logits of shape (2, {classes}) for 2 images, got {came}; "
            "choose a backbone, or args, with one"
        )
