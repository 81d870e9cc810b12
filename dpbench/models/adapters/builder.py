"""Networks of one's own: `path/to/my_net.py:build`, a function that makes an `nn.Module`.

The file runs in the engine's process: it is the network under test, not a plug-in that is judged. It is loaded and
hashed as plug-in files are, with the modules of its folder that it imports and the files that it names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpbench.errors import DpbenchError, is_interrupt, reason, unknown
from dpbench.machine import plugin_files
from dpbench.machine.process_state import preserved
from dpbench.machine.randomness import seeded
from dpbench.models.adapters import program
from dpbench.models.spec import BackboneSpec

AS_THEY_ARE = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
"""Normalisation of a network that states none: images come in [0,1]."""

TENSORS = ("logits", "image_embeds", "pooler_output", "last_hidden_state")
"""What is taken of a named outcome, as the models of transformers give it: the first that is there."""

ALIKE = 1e-4
"""Largest difference between two calls on the same images, relative where values exceed 1."""

IMAGES = 3


def path_of(spec: BackboneSpec) -> Path:
    """The file of a network of one's own.

    Raises:
        DpbenchError: there is none.
    """
    file_name, _, function = spec.name.rpartition(":")
    path = Path(file_name).expanduser().resolve()
    if not path.is_file():
        raise DpbenchError(f"backbone {spec.name!r}: there is no file {file_name}; expected path/to/my_net.py:build")
    if not function:
        raise DpbenchError(f"backbone {spec.name!r} names no function; expected path/to/my_net.py:build")
    return path


def files_of(spec: BackboneSpec) -> dict[str, str]:
    """The file, and what it uses of its folder -> digits of their SHA-256."""
    return program.files_of(spec) if spec.program else plugin_files.look_at(path_of(spec)).files


def build(spec: BackboneSpec, *, image_size: int, classes: int) -> nn.Module:
    """A new instance, in eval mode; it gives one tensor.

    The function is called with `args`, and with `classes` and `image_size` where it has such parameters.

    Args:
        spec: whose name is a reference to a file.
        image_size: side in pixels.
        classes: number of logits; 0 where features are wanted.

    Raises:
        DpbenchError: the file does not import or has changed, or the function raises or gives no module.
    """
    model = program.build(spec, image_size=image_size) if spec.program else _made(spec, image_size, classes)
    if not getattr(model, "default_cfg", None):
        model.default_cfg = AS_THEY_ARE  # type: ignore[assignment]
    _assert_normalises(model.default_cfg, spec)
    model.register_forward_hook(_one_tensor)
    return model.eval()


def _assert_normalises(config: Any, spec: BackboneSpec) -> None:
    """Refuse a normalisation that is none of three channels."""
    try:
        mean, std = stated_normalisation(config)
    except (AttributeError, RuntimeError, TypeError, ValueError):
        mean = std = torch.empty(0)
    sound = all(len(values) in (1, 3) and bool(values.isfinite().all()) for values in (mean, std))
    if not sound or not bool((std > 0).all()):
        raise DpbenchError(
            f"backbone {spec.name!r} has the default_cfg {str(config)[:80]!r}; expected {{'mean': (r, g, b), 'std': "
            "(r, g, b)}, finite, each std above 0"
        )


def stated_normalisation(config: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of a `default_cfg`, each (1,) or (3,) float64; 0.5 where it states none, as timm has it."""
    given = (config.get(name) for name in ("mean", "std"))
    stated = ((0.5,) * 3 if one is None or one == () else one for one in given)
    # on the CPU: networks are looked at where tensors have no values, too
    mean, std = (torch.as_tensor(one, device="cpu").double().flatten() for one in stated)
    return mean, std


def _made(spec: BackboneSpec, image_size: int, classes: int) -> nn.Module:
    """What the function in a file gives."""
    path = path_of(spec)
    if any(spec.files.get(name, digest) != digest for name, digest in files_of(spec).items()):
        raise DpbenchError(f"backbone {spec.name!r}: {path.name} changed since the run was planned; run again")
    function = _function(spec, path)
    takes = inspect.signature(function).parameters
    told = {"classes": classes, "image_size": image_size}
    arguments = {**{name: value for name, value in told.items() if name in takes}, **spec.args}
    lacking = [name for name, one in takes.items() if _needed(one) and name not in arguments]
    if lacking:
        raise DpbenchError(
            f"backbone {spec.name!r}: {function.__name__} needs {', '.join(lacking)}; expected a function of nothing "
            f"but classes and image_size, or give it: args = {{ {lacking[0]} = ... }}"
        )
    with torch.enable_grad():
        model = _run(lambda: function(**arguments), spec, f"{function.__name__} raised")
    if not isinstance(model, nn.Module):
        raise DpbenchError(
            f"backbone {spec.name!r} gives {type(model).__name__}; expected an nn.Module of images (N,3,H,W) to logits "
            "or features"
        )
    return model


def _needed(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (
        parameter.VAR_POSITIONAL,
        parameter.VAR_KEYWORD,
    )


def _function(spec: BackboneSpec, path: Path) -> Callable[..., Any]:
    module = _run(lambda: plugin_files.load(path), spec, "does not import:")
    name = spec.name.rpartition(":")[2]
    function = getattr(module, name, None)
    if function is None:
        raise unknown(
            f"function in {path.name}", name, [n for n, one in vars(module).items() if inspect.isfunction(one)]
        )
    if not callable(function):
        raise DpbenchError(f"backbone {spec.name!r}: {name} is no function; expected one that returns an nn.Module")
    return function  # type: ignore[no-any-return]


def _run(call: Callable[[], Any], spec: BackboneSpec, what: str) -> Any:
    try:
        with preserved():
            return call()
    except BaseException as error:  # a module may call sys.exit
        if is_interrupt(error):
            raise
        file_name = Path(spec.name.rpartition(":")[0]).name
        raise DpbenchError(f"backbone {spec.name!r}: {what} {reason(error)}; fix {file_name}") from error


def _one_tensor(network: nn.Module, args: Any, outcome: Any) -> Any:
    """Of a named outcome the logits, else the features."""
    if isinstance(outcome, dict):
        return next((outcome[name] for name in TENSORS if isinstance(outcome.get(name), Tensor)), outcome)
    return outcome


@torch.no_grad()
def looked_at(spec: BackboneSpec, *, image_size: int, classes: int) -> int:
    """Calls a network of one's own, and says how wide what it gives of an image is; 0 for what is no vector.

    Raises:
        DpbenchError: it does not take such images; gives no tensor with a row for each; gives something else when it
            is called again, or built again with the same weights.
    """
    cpu = torch.device("cpu")
    with seeded(0, cpu):
        model = build(spec, image_size=image_size, classes=classes)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(IMAGES, 3, image_size, image_size, generator=generator)
    outcome = _called(model, images, spec, seed=0)
    if not isinstance(outcome, Tensor) or not outcome.is_floating_point() or outcome.shape[:1] != (IMAGES,):
        came = (
            f"{tuple(outcome.shape)} {outcome.dtype}" if isinstance(outcome, Tensor) else f"a {type(outcome).__name__}"
        )
        raise DpbenchError(
            f"backbone {spec.name!r} gives {came} for {IMAGES} images; expected one tensor of floats, logits (N, "
            "classes) or features (N, ...): wrap it in a module that returns one"
        )
    if not bool(outcome.isfinite().all()):
        raise DpbenchError(
            f"backbone {spec.name!r} gives values that are NaN or infinite for images in [0,1]; expected finite ones"
        )
    if _differ(outcome, _called(model, images, spec, seed=1)):
        raise DpbenchError(
            f"backbone {spec.name!r} gives something else when it is called again with the same images; it must draw "
            "nothing and keep nothing in eval mode"
        )
    if _differ(outcome[:1], _called(model, images[:1], spec, seed=0)):
        raise DpbenchError(
            f"backbone {spec.name!r} gives something else for an image when others stand beside it; it must answer "
            "each image alone (a program: export it for a batch of 1)"
        )
    with seeded(1, cpu):
        again = build(spec, image_size=image_size, classes=classes)
    _run(lambda: again.load_state_dict(model.state_dict()), spec, "its weights do not load into a second instance:")
    if _differ(outcome, _called(again, images, spec, seed=0)):
        raise DpbenchError(
            f"backbone {spec.name!r} gives something else when it is built again with the same weights; keep what it "
            "draws in parameters or buffers"
        )
    return outcome.shape[1] if outcome.ndim == 2 else 0


def _called(model: nn.Module, images: Tensor, spec: BackboneSpec, *, seed: int) -> Any:
    try:
        with seeded(seed, images.device), preserved():
            return model(images.clone())
    except Exception as error:
        side = images.shape[-1]
        raise DpbenchError(
            f"backbone {spec.name!r} does not take images of {side} x {side}: {reason(error)}; choose another "
            f"dataset.image_size, or take float32 images (N,3,{side},{side}) in the network"
        ) from error


def _differ(one: Tensor, other: Any) -> bool:
    if not isinstance(other, Tensor) or other.shape != one.shape:
        return True
    return not float((one - other).abs().max()) <= ALIKE * max(1.0, float(one.abs().max()))
