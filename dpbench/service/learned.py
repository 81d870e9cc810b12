"""What a defense learned in `fit`: the parameters and buffers that travel, and anything else, which is refused by name.

A fitted defense is stored as a state dict and built anew from it. What `fit` keeps anywhere else would be lost there,
and an unfitted defense measured in its place.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpbench.contract.defense import Defense, ProtectedModel
from dpbench.errors import DpbenchError
from dpbench.machine import plugin_files
from dpbench.machine.cache import State

LOST = "where it is lost when the fit is stored; register what is learned as a buffer in build"

_INTERNAL = frozenset(vars(nn.Module())) - {"training"}
"""Attributes that every module has; what they hold is looked at by itself."""

_HOOKS = tuple(sorted(name for name in _INTERNAL if name.endswith("_hooks")))

_LIBRARIES = ("dpbench", "torch", "pydantic", "builtins", "abc", "typing", "timm")

_OPAQUE = sys.stdlib_module_names - {"types", "collections", "argparse", "array"}
"""Loggers, locks, streams, ...: what they hold is not what a defense learned."""


class Fitting:
    """A protected model and its defense, looked at before `fit` and after it.

    Args:
        name: of the defense, for messages.
        defense: which will fit it.
        model: what it built.
    """

    def __init__(self, name: str, defense: Defense, model: ProtectedModel) -> None:
        self.name = name
        self.defense = defense
        self.model = model
        self._state = {name: value.detach().clone() for name, value in _tensors(self.name, model).items()}
        self._modules = {name: type(module) for name, module in model.named_modules()}
        self._beside = dict(_beside(defense, model))

    def learned(self) -> State:
        """The parameters and buffers that `fit` changed or added.

        Raises:
            DpbenchError: it changed something else; says what.
        """
        modules = {name: type(module) for name, module in self.model.named_modules()}
        if added := sorted(modules.keys() - self._modules.keys()):
            self._refuse(
                f"added the submodule {added[0]!r}", "which is not there when the model is built; make it in build"
            )
        if other := sorted(name for name in self._modules if modules.get(name) is not self._modules[name]):
            self._refuse(
                f"replaced or removed the submodule {other[0]!r}",
                "which is there as before when the model is built; make it so in build",
            )
        after = _tensors(self.name, self.model)
        if gone := sorted(self._state.keys() - after.keys()):
            self._refuse(f"removed {gone[0]!r}", "which is there again when the model is built; leave it out in build")
        beside = dict(_beside(self.defense, self.model))
        if left := sorted(name for name in {**self._beside, **beside} if self._beside.get(name) != beside.get(name)):
            self._refuse(f"left {left[0]} outside parameters and buffers", LOST)
        return {name: value for name, value in after.items() if not _same(value, self._state.get(name))}

    def _refuse(self, what: str, advice: str) -> None:
        raise DpbenchError(f"defense {self.name!r}: fit {what}, {advice}")


def restore(model: ProtectedModel, learned: Mapping[str, Tensor]) -> None:
    """Give a model that was just built what `Fitting.learned` found, buffers of another shape and new ones included."""
    built = model.state_dict()
    for name, value in learned.items():
        if name not in built or (built[name].shape, built[name].dtype) != (value.shape, value.dtype):
            _make_room(model, name, value)
    model.load_state_dict({**model.state_dict(), **learned})


def _make_room(model: ProtectedModel, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    device = next((t.device for t in itertools.chain(model.parameters(), model.buffers())), value.device)
    room = torch.empty_like(value, device=device)
    if leaf in owner._parameters:
        owner._parameters[leaf] = nn.Parameter(room, requires_grad=False)
        return
    vars(owner).pop(leaf, None)  # a plain None that stood in its place
    owner.register_buffer(leaf, room)


def _tensors(defense: str, model: ProtectedModel) -> State:
    """Parameters and buffers by name: the state that is cached and sent to other processes."""
    state: dict[str, Any] = model.state_dict()
    for name, value in state.items():
        if type(value) is not Tensor or value.layout != torch.strided:
            raise DpbenchError(
                f"defense {defense!r}: {name!r} in its state is a {type(value).__name__} that is no plain tensor; "
                "register what is learned as a buffer"
            )
    return state


def _same(value: Tensor, before: Tensor | None) -> bool:
    if before is None or (value.shape, value.dtype) != (before.shape, before.dtype):
        return False
    return torch.equal(value, before)


def _beside(defense: Defense, model: ProtectedModel) -> Iterator[tuple[str, str]]:
    """Where something could be kept that does not travel, in words, and a digest of what is there."""
    known = {id(module) for module in model.modules()}
    kept = set(model.state_dict())
    digest = functools.partial(_digest, known=known)
    undefended = {id(module) for module in model.split.modules()}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for name, buffer in module._buffers.items():
            if buffer is not None and prefix + name not in kept:
                yield repr(prefix + name), digest(buffer)
        for name in _HOOKS:
            if hooks := getattr(module, name, None):
                yield f"{name.strip('_')} of {path or 'the model'}", digest(list(hooks.values()))
        if id(module) in undefended:
            continue  # dpbench made it; libraries keep what they like in theirs
        for name, value in vars(module).items():
            # None is what stands for a buffer that is not there yet
            if name not in _INTERNAL and name != "training" and value is not None:
                yield repr(prefix + name), digest(value)
    for name, value in [*vars(defense).items(), *(getattr(defense, "__pydantic_private__", None) or {}).items()]:
        yield f"{name!r} of the defense itself", digest(value)
    for cls in dict.fromkeys([*type(defense).__mro__, *type(model).__mro__]):
        if not _of_library(cls.__module__):
            for name, value in vars(cls).items():
                if _is_data(name, value):
                    yield f"{cls.__name__}.{name}", digest(value)
    for module_name in _modules_of(defense, model):
        for name, value in vars(sys.modules[module_name]).items():
            if _is_data(name, value):
                yield f"the global {name!r} of {module_name.rpartition('.')[2]}.py", digest(value)


def _modules_of(defense: Defense, model: ProtectedModel) -> list[str]:
    """The modules of the plug-in's code that are loaded."""
    names = {type(defense).__module__, type(model).__module__}
    if plugin_files.loaded_from(type(defense).__module__) is not None:
        package = type(defense).__module__.partition(".")[0]
        names |= {name for name in sys.modules if name.startswith(f"{package}.")}
    return sorted(name for name in names if name in sys.modules and not _of_library(name))


def _of_library(module: str) -> bool:
    return module.partition(".")[0] in _LIBRARIES


def _is_data(name: str, value: object) -> bool:
    """Not code, and nothing that Python or pydantic keeps on a class."""
    if name.startswith(("__", "_abc_", "model_")):
        return False
    return not (
        inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value) or hasattr(value, "__get__")
    )


def _digest(value: Any, known: set[int]) -> str:
    digest = hashlib.sha256()
    for part in _parts(value, known, {}):
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any, known: set[int], seen: dict[int, object]) -> Iterator[bytes]:
    """The content of any value, as far as Python shows it."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | PurePath | torch.dtype):
        yield f"{type(value).__name__} {value!r}".encode(errors="surrogatepass")
        return
    if id(value) in known or id(value) in seen or isinstance(value, type | types.ModuleType):
        yield type(value).__name__.encode()
        return
    seen[id(value)] = value  # held: else another value may get its id
    if isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        if value.layout == torch.strided and value.device.type != "meta":
            yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape}".encode() + (value.tobytes() if value.dtype != object else b"")
    elif isinstance(value, nn.Module):  # one that the model does not list
        yield from _parts(dict(value.state_dict()), known, seen)
    elif isinstance(value, torch.Generator):
        yield from _parts(value.get_state(), known, seen)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _parts(key, known, seen)
            yield from _parts(inner, known, seen)
    elif isinstance(value, set | frozenset):
        yield repr(sorted(map(repr, value))).encode()
    elif isinstance(value, list | tuple):
        yield f"{type(value).__name__} {len(value)}".encode()
        for inner in value:
            yield from _parts(inner, known, seen)
    elif isinstance(value, types.FunctionType):
        yield value.__code__.co_code + repr((value.__qualname__, value.__code__.co_consts)).encode()
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
        yield from _parts([cells, value.__defaults__, value.__kwdefaults__, vars(value)], known, seen)
    elif isinstance(value, types.MethodType):
        yield from _parts([value.__func__, value.__self__], known, seen)
    elif isinstance(value, functools.partial):
        yield from _parts([value.func, value.args, value.keywords], known, seen)
    else:
        yield type(value).__qualname__.encode()
        if type(value).__module__.partition(".")[0] in _OPAQUE:
            return
        yield from _parts(dict(getattr(value, "__dict__", {})), known, seen)
        slots = [name for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ()) if isinstance(name, str)]
        for name in slots:
            yield from _parts(getattr(value, name, None), known, seen)
        if not slots and hasattr(value, "__iter__") and hasattr(value, "__len__"):
            yield from _parts(list(value), known, seen)
