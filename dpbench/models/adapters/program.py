"""Clients and servers that exist as programs alone: ONNX, TorchScript, torch.export.

A program is fixed: it has no weights to read, load or train. Programs of torch let gradients through, those of ONNX do
not.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dpbench.errors import DpbenchError, NoGradients, NotCounted, reason
from dpbench.machine.plugin_files import file_hash
from dpbench.models.adapters.onnx_program import OnnxProgram, beside
from dpbench.models.spec import BackboneSpec

NO_GRADIENTS = "no gradients: {} is an ONNX program; attacks that query it run as they are"

UNSEEN = re.compile(r"(?i)^(?!aten)\w+\W+.*(conv|linear|matmul|mm|gemm|lstm|gru|rnn)|mkldnn_(conv|linear)")
"""Operators that multiply and are not torch's own ones: those of quantised programs and of some processors."""

ONNX = ".onnx"

CLIENT = "client"
"""The split point of a network of programs."""


class Program(nn.Module):
    """A file as a module of one tensor to one tensor, traced as one step; its copies share what was loaded.

    Args:
        run: what was loaded, one call.
        name: of the file.
        differentiable: whether gradients pass.
        stored: values of its parameters and buffers; None where that is not known.
    """

    opaque: ClassVar[bool] = True

    def __init__(
        self, run: Callable[[Tensor], Any], name: str, *, differentiable: bool, stored: int | None = None
    ) -> None:
        super().__init__()
        self.run = _Shared(run)
        self.name = name
        self.differentiable = differentiable
        self.stored = stored

    def forward(self, inputs: Tensor) -> Any:
        """(N, ...) -> what the program gives of it."""
        if not self.differentiable and torch.is_grad_enabled() and inputs.requires_grad:
            raise NoGradients(NO_GRADIENTS.format(self.name))
        return self.run.call(inputs.float())

    def hidden_multiply_adds(self, inputs: Tensor) -> int:
        """Of the first row of (N, ...): those that torch does not see when the program runs.

        Raises:
            NotCounted: nothing here can count them.
        """
        call = self.run.call
        return call.multiply_adds(inputs) if isinstance(call, OnnxProgram | TorchProgram) else 0


class _Shared:
    """What was loaded; a copy of it is itself."""

    def __init__(self, call: Callable[[Tensor], Any]) -> None:
        self.call = call

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


class TorchProgram:
    """A program of torch, on whatever device it is given something."""

    def __init__(self, program: Any, name: str) -> None:
        self.name = name
        self.by_device = {torch.device("cpu"): program}

    def __call__(self, inputs: Tensor) -> Any:
        """(N, ...) -> what the program gives of it."""
        if inputs.device not in self.by_device:
            self.by_device[inputs.device] = copy.deepcopy(self.by_device[torch.device("cpu")]).to(inputs.device)
        return self.by_device[inputs.device](inputs)

    def multiply_adds(self, inputs: Tensor) -> int:
        """None that torch does not see.

        Raises:
            NotCounted: it runs what torch runs unseen.
        """
        unseen = next((kind for kind in _kinds(self.by_device[torch.device("cpu")]) if UNSEEN.search(kind)), None)
        if unseen is not None:
            raise NotCounted(f"{self.name} runs {unseen}, which is not counted")
        return 0


def _kinds(program: Any) -> Iterator[str]:
    """The operators of a program, by name."""
    if isinstance(program, torch.fx.GraphModule):
        yield from (str(node.target) for node in program.graph.nodes if node.op == "call_function")
    else:
        yield from _kinds_within(program.inlined_graph)


def _kinds_within(block: Any) -> Iterator[str]:
    for node in block.nodes():
        yield node.kind()
        for inner in node.blocks():
            yield from _kinds_within(inner)


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
    """The programs -> SHA-256 of each, and of what those of ONNX keep in other files.

    Raises:
        DpbenchError: one is not there.
    """
    found = {}
    for role, name in _roles(spec).items():
        path = _path(name)
        found[role] = file_hash(path)
        if path.suffix == ONNX:
            found |= {f"{role} {there}": file_hash(file) for there, file in beside(path).items()}
    return found


def build(spec: BackboneSpec, *, image_size: int) -> nn.Module:
    """The network that the programs make.

    Raises:
        DpbenchError: a file that is not there, has changed, is no program, or does not take such images.
    """
    for name, digest in files_of(spec).items():
        if spec.files.get(name, digest) != digest:
            changed = _path(_roles(spec)[name.partition(" ")[0]]).name
            raise DpbenchError(f"backbone {spec.name!r}: {changed} changed since the run was planned; run again")
    loaded = {}
    for role, name in _roles(spec).items():
        path = _path(name)
        loaded[role] = _onnx(path, image_size if role == CLIENT else None) if path.suffix == ONNX else _torch(path)
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
    stored = sum(tensor.numel() for tensor in (*program.parameters(), *program.buffers()))
    return Program(TorchProgram(program, path.name), path.name, differentiable=True, stored=stored)


def _onnx(path: Path, image_size: int | None) -> Program:
    return Program(OnnxProgram(path, image_size), path.name, differentiable=False)
