"""Programs of ONNX, run by onnxruntime: what they take and give, and how often they multiply and add."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpbench.errors import DpbenchError, NotCounted

FLOATS = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64}
"""Types of inputs and outputs that are served, as onnxruntime calls them."""

MULTIPLYING = ("conv", "matmul", "gemm", "attention", "einsum", "lstm", "gru", "rnn", "dft")
"""What is in the names of operators that multiply and add."""

WEIGHTS = {"Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3, "ConvTranspose": 1}
"""Convolutions, and which of their inputs are the weights."""

PRODUCTS = ("MatMul", "MatMulInteger", "QLinearMatMul")

LOCATION = re.compile(rb"\n\x08location\x12")
"""Where a program says in which other file of its folder values lie, as protocol buffers write it."""


SOURCE = re.compile(r"/\S+\.(?:h|cc):\d+ [^()]*\(.*?\) ")
"""A place in the code of onnxruntime, as its messages begin."""

LONGEST_REASON = 200


def beside(path: Path) -> dict[str, Path]:
    """Other files of its folder that a program keeps its values in, by the names that it calls them."""
    content = path.read_bytes()
    names = set()
    for found in LOCATION.finditer(content):
        length, place = _length(content, found.end())
        names.add(content[place : place + length].decode("utf-8", "replace"))
    there = {name: (path.parent / name).resolve() for name in sorted(names) if "\0" not in name}
    return {name: file for name, file in there.items() if file.is_file()}


def _length(content: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    number = shift = 0
    while place < len(content):
        byte, place = content[place], place + 1
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128 or shift > 28:
            break
    return number, place


class OnnxProgram:
    """A program of one input and one output.

    Args:
        path: the file.
        image_size: side in pixels of the images that it takes; None where it takes features.

    Raises:
        DpbenchError: onnxruntime is not there or does not run it; or it takes or gives something else.
    """

    def __init__(self, path: Path, image_size: int | None) -> None:
        self.path = path
        self.session = _session(path)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        kinds = [one.type for one in (*inputs, *outputs)]
        if len(inputs) != 1 or len(outputs) != 1 or not FLOATS.keys() >= set(kinds) or len(inputs[0].shape) < 2:
            raise DpbenchError(
                f"{path.name} has the inputs {_told(inputs)} and the outputs {_told(outputs)}; expected one input of "
                "floats, images (N,3,H,W) or features (N, ...), and one output of floats"
            )
        self.name, shape = inputs[0].name, list(inputs[0].shape)
        self.takes = FLOATS[inputs[0].type]
        self.at_once = shape[0] if isinstance(shape[0], int) else 0
        if image_size is not None:
            _assert_takes_images(path, shape, image_size)

    def __call__(self, given: Tensor) -> Tensor:
        """(N, ...) -> (N, ...), in batches of the size that the program is fixed to."""
        size = self.at_once or max(1, len(given))
        parts = []
        for part in given.detach().to("cpu", self.takes).split(size):
            filled = torch.cat([part, part[:1].expand(size - len(part), *part.shape[1:])]) if self.at_once else part
            (found,) = self.session.run(None, {self.name: filled.contiguous().numpy()})
            parts.append(torch.from_numpy(found)[: len(part)])
        return torch.cat(parts).to(given.device)

    def multiply_adds(self, given: Tensor) -> int:
        """Of one image, counted as onnxruntime runs the program on the first row of (N, ...).

        Raises:
            NotCounted: it runs what is not known here.
        """
        one = given[:1].detach().to("cpu", self.takes)
        filled = one.expand(max(1, self.at_once), *one.shape[1:]).contiguous().numpy()
        with tempfile.TemporaryDirectory() as folder:
            session = _session(self.path, watched=Path(folder) / "profile")
            session.run(None, {self.name: filled})
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        ran = [event["args"] for event in events if event.get("cat") == "Node" and "op_name" in event.get("args", {})]
        return sum(_multiply_adds(one, self.path.name) for one in ran) // max(1, self.at_once)


def _session(path: Path, *, watched: Path | None = None) -> Any:
    """What runs a program; where it is watched, operator by operator, each with all that it takes."""
    try:
        import onnxruntime
    except ImportError as error:
        raise DpbenchError(f"{path.name} needs the package onnxruntime; pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # what is wrong is said in one line
    if watched is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(watched)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")  # packed weights have no shape
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise DpbenchError(f"{path.name} is no program that onnxruntime runs ({_why(error)})") from error


def _why(error: Exception) -> str:
    """What onnxruntime says, without where in its own code it says so."""
    return SOURCE.sub("", " ".join(str(error).split()).rpartition(" failed:")[2])[:LONGEST_REASON].strip()


def _told(places: list[Any]) -> str:
    return ", ".join(f"{one.name} {one.type} {list(one.shape or ())}" for one in places) or "(none)"


def _assert_takes_images(path: Path, shape: list[Any], image_size: int) -> None:
    wanted = [3, image_size, image_size]
    fixed = [side for side in shape[1:] if isinstance(side, int)]
    if len(shape) == 4 and all(a == b for a, b in zip(shape[1:], wanted, strict=True) if isinstance(a, int)):
        return
    raise DpbenchError(
        f"{path.name} takes {shape}, and images are {wanted}; choose another dataset.image_size, or export it for "
        f"images of this size{'' if fixed else ' without dynamic shapes'}"
    )


def _multiply_adds(ran: Mapping[str, Any], name: str) -> int:
    """Of one operator that ran, by the shapes that it took and gave."""
    operator = str(ran["op_name"])
    takes, gives = _shapes(ran, "input"), _shapes(ran, "output")
    try:
        if operator in WEIGHTS:
            weights = takes[WEIGHTS[operator]]
            places = takes[0] if operator == "ConvTranspose" else gives[0]
            return math.prod(places) * math.prod(weights[1:])
        if operator in PRODUCTS:
            return math.prod(gives[0]) * takes[0][-1]
        if operator == "Gemm":
            return math.prod(takes[0]) * gives[0][1]
    except IndexError as error:
        raise NotCounted(f"{name} runs {operator} on what has no shape") from error
    if any(word in operator.lower() for word in MULTIPLYING):
        raise NotCounted(f"{name} runs {operator}, which is not counted")
    return 0


def _shapes(ran: Mapping[str, Any], end: str) -> list[list[int]]:
    return [list(map(int, shape)) for one in ran.get(f"{end}_type_shape", ()) for shape in one.values()]
