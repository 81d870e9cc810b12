"""Clients and servers that exist as programs alone: ONNX, TorchScript, torch.export.

A program is fixed: it has no weights to read, load or train. Programs of torch let gradients through, those of ONNX do
not.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dpbench.errors import DpbenchError, NoGradients, reason
from dpbench.machine.plugin_files import file_hash
from dpbench.models.spec import BackboneSpec

NO_GRADIENTS = "no gradients: {} is an ONNX program; attacks that query it run as they are"

CLIENT = "client"
"""The split point of a network of programs."""


class Program(nn.Module):
    """A file as a module of one tensor to one tensor, traced as one step; its copies share what was loaded.

    Args:
        run: what was loaded, one call.
        name: of the file.
        differentiable: whether gradients pass.
    """

    opaque: ClassVar[bool] = True

    def __init__(self, run: Callable[[Tensor], Any], name: str, *, differentiable: bool) -> None:
        super().__init__()
        self.run = _Shared(run)
        self.name = name
        self.differentiable = differentiable

    def forward(self, inputs: Tensor) -> Any:
        """(N, ...) -> what the program gives of it."""
        if not self.differentiable and torch.is_grad_enabled() and inputs.requires_grad:
            raise NoGradients(NO_GRADIENTS.format(self.name))
        return self.run.call(inputs.float())


class _Shared:
    """What was loaded; a copy of it is itself."""

    def __init__(self, call: Callable[[Tensor], Any]) -> None:
        self.call = call

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


class Programs(nn.Module):
    """A client's program and, where there is one, the server's: images (N,3,H,W) in [0,1] to what comes out."""

    def __init__(self, client: Program, server: Program | None) -> None:
        super().__init__()
        self.client = client
        self.server = server
        self.feature_info = [{"module": CLIENT}]

    def forward(self, images: Tensor) -> Any:
        """(N,3,H,W) -> the server's outcome, or what the client sends."""
        sent = self.client(images)
        return sent if self.server is None else self.server(sent)


def files_of(spec: BackboneSpec) -> dict[str, str]:
    """The programs -> SHA-256 of each.

    Raises:
        DpbenchError: one is not there.
    """
    return {role: file_hash(_path(name)) for role, name in _roles(spec).items()}


def build(spec: BackboneSpec, *, image_size: int) -> nn.Module:
    """The network that the programs make.

    Raises:
        DpbenchError: a file that is not there, has changed, is no program, or does not take such images.
    """
    loaded = {}
    for role, name in _roles(spec).items():
        path = _path(name)
        if spec.files.get(role, file_hash(path)) != file_hash(path):
            raise DpbenchError(f"backbone {spec.name!r}: {path.name} changed since the run was planned; run again")
        loaded[role] = _onnx(path, image_size if role == CLIENT else None) if path.suffix == ".onnx" else _torch(path)
    return Programs(loaded[CLIENT], loaded.get("server"))


def _roles(spec: BackboneSpec) -> dict[str, str]:
    return {CLIENT: spec.name, **({"server": spec.server} if spec.server else {})}


def _path(name: str) -> Path:
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise DpbenchError(f"there is no program {name}; expected a file of ONNX, TorchScript or torch.export")
    return path


def _torch(path: Path) -> Program:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, and devices run it
            if path.suffix == ".pt2":
                program = torch.export.load(path).module()
            else:
                program = torch.jit.load(path, map_location="cpu").eval()
    except Exception as error:
        raise DpbenchError(
            f"{path.name} is no program that torch reads ({reason(error)[:160]}); expected TorchScript (.pt, .ts), or "
            "what torch.export.save wrote (.pt2)"
        ) from error
    for parameter in program.parameters():
        parameter.requires_grad_(False)
    by_device = {torch.device("cpu"): program}

    def run(inputs: Tensor) -> Any:
        if inputs.device not in by_device:
            by_device[inputs.device] = copy.deepcopy(program).to(inputs.device)
        return by_device[inputs.device](inputs)

    return Program(run, path.name, differentiable=True)


def _onnx(path: Path, image_size: int | None) -> Program:
    try:
        import onnxruntime
    except ImportError as error:
        raise DpbenchError(f"{path.name} needs the package onnxruntime; pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise DpbenchError(f"{path.name} is no program that onnxruntime runs ({reason(error)[:160]})") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) < 2:
        told = ", ".join(f"{one.name} {one.type} {list(one.shape)}" for one in inputs)
        raise DpbenchError(
            f"{path.name} has the inputs {told} and {len(outputs)} outputs; expected one input of floats, images "
            "(N,3,H,W) or features (N, ...), and one output"
        )
    shape = list(inputs[0].shape)
    wanted = [3, image_size, image_size]
    fixed = [side for side in shape[1:] if isinstance(side, int)]
    if image_size is not None and (
        len(shape) != 4 or any(isinstance(a, int) and a != b for a, b in zip(shape[1:], wanted, strict=True))
    ):
        raise DpbenchError(
            f"{path.name} takes {shape}, and images are {wanted}; choose another dataset.image_size, or export it for "
            f"images of this size{'' if fixed else ' without dynamic shapes'}"
        )
    at_once = shape[0] if isinstance(shape[0], int) else 0
    name = inputs[0].name

    def run(given: Tensor) -> Tensor:
        size = at_once or max(1, len(given))
        parts = []
        for part in given.detach().split(size):
            short = (at_once - len(part)) if at_once else 0
            filled = torch.cat([part, part[:1].expand(short, *part.shape[1:])]) if short else part
            (found,) = session.run(None, {name: filled.cpu().contiguous().numpy()})
            parts.append(torch.from_numpy(found)[: len(part)])
        return torch.cat(parts).to(given.device)

    return Program(run, path.name, differentiable=False)
