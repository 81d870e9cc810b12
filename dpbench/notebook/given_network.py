"""A network that somebody holds, as a backbone that the engine can make again: with its weights, or fitted anew."""

from __future__ import annotations

import copy
import secrets
import sys
import tempfile
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import nn

from dpbench.errors import DpbenchError
from dpbench.suite.suite import BackboneEntry


@contextmanager
def given_network(given: str | nn.Module, split: str | int, *, fit: bool, epochs: int) -> Iterator[BackboneEntry]:
    """The backbone that is meant, known to timm while the block runs.

    Args:
        given: timm's name, or a module that takes images in [0,1], (N,3,S,S), and gives logits. Its own normalisation
            belongs into it.
        split: the module whose output leaves the client.
        fit: fit it anew; else a module keeps its weights, and a timm model takes those at hand.
        epochs: of fitting.

    Raises:
        DpbenchError: neither of the two, a module whose weights cannot be written, or that has no such part.
    """
    if isinstance(given, str):
        yield BackboneEntry(name=given, weights="fit" if fit else "auto", epochs=epochs, split_points=[split])
        return
    if not isinstance(given, nn.Module):
        came = f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
        raise DpbenchError(f"backbone is {came}; expected a name of timm's, or a torch.nn.Module that is made already")
    names = [name for name, _ in given.named_modules() if name]
    if split not in names:
        raise DpbenchError(f"split {split!r} is no module of {type(given).__name__}; it has {', '.join(names[:40])}")
    mark = secrets.token_hex(6)  # what the module computes may have changed since: nothing of before is taken for it
    name = f"{type(given).__name__.lower()}_{mark}"
    own = copy.deepcopy(given).cpu().eval()
    with tempfile.TemporaryDirectory(prefix="dpbench-") as folder, _known_to_timm(name, own):
        weights = "fit"
        if not fit:
            weights = str(Path(folder) / "weights.safetensors")
            try:
                state = {key: value.detach().contiguous().clone() for key, value in own.state_dict().items()}
                safetensors.torch.save_file(state, weights)
            except Exception as error:
                raise DpbenchError(f"the weights of {type(given).__name__} cannot be written: {error}") from error
        yield BackboneEntry(name=name, weights=weights, epochs=epochs, split_points=[split])


@contextmanager
def _known_to_timm(name: str, network: nn.Module) -> Iterator[None]:
    held, classifier = [network], _classifier(network)

    def create(pretrained: bool = False, **options: Any) -> nn.Module:
        if not held:
            raise DpbenchError(f"{name} was handed in for one evaluation, which is over")
        made = _with_classes(copy.deepcopy(held[0]), classifier, options.get("num_classes"))
        overlay = options.get("pretrained_cfg_overlay") or {}
        if overlay.get("state_dict") is not None:
            made.load_state_dict(overlay["state_dict"])
        elif not pretrained:
            _draw_anew(made)
        made.reset_classifier = types.MethodType(reset_classifier, made)  # type: ignore[assignment]
        made.pretrained_cfg = dict(overlay)  # type: ignore[assignment]
        made.default_cfg = {"mean": (0.0,) * 3, "std": (1.0,) * 3}  # type: ignore[assignment]
        return made.to("meta") if torch.get_default_device().type == "meta" else made

    def reset_classifier(network: nn.Module, classes: int) -> None:
        _with_classes(network, classifier, classes)

    create.__name__ = name
    home = types.ModuleType(f"dpbench_given_{name}")
    home.default_cfgs = {name: {"classifier": classifier}}  # type: ignore[attr-defined]
    create.__module__ = home.__name__
    sys.modules[home.__name__] = home
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            timm.models.register_model(create)
        yield
    finally:
        held.clear()  # timm keeps what makes it, and forgets no name
        del sys.modules[home.__name__]


def _draw_anew(network: nn.Module) -> None:
    """Fresh weights from the global generator, which whoever makes a network has seeded."""
    for module in network.modules():
        reset: Any = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()


def _with_classes(network: nn.Module, classifier: str, classes: int | None) -> nn.Module:
    """The network with another last layer, where it was made for another number of classes."""
    last = network.get_submodule(classifier)
    assert isinstance(last, nn.Linear)
    if classes is not None and classes != last.out_features:
        parent, _, name = classifier.rpartition(".")
        new = nn.Linear(last.in_features, classes, bias=last.bias is not None)
        setattr(network.get_submodule(parent), name, new)
    return network


def _classifier(network: nn.Module) -> str:
    """The last linear layer: its rows are the classes."""
    found = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not found:
        raise DpbenchError(f"{type(network).__name__} has no linear layer, whose rows would be the classes")
    return str(found[-1])
