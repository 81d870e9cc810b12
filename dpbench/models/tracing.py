"""What a network does to a batch of images, as a torch.fx graph, found by watching it run.

Symbolic tracing stops at control flow that looks at shapes, which a quarter of timm's families has. Here the network
runs for real, on two batch sizes, and every call of a torch function is written down. Shapes are plain numbers then;
those that differ between the two runs are multiples of the batch size, and the graph computes them from its input.
"""

from __future__ import annotations

import copy
import operator
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode

from dpbench.errors import DpbenchError
from dpbench.models.packing import BATCHES, MADE, Made

DEPENDS = "what it computes depends on the number of images"
"""Why a network has no graph that holds for batches of any size."""


@dataclass(frozen=True)
class Given:
    """What an earlier call gave: the place of the call, and which of its results where there are several."""

    call: int
    item: int | None = None


@dataclass(frozen=True)
class Stored:
    """A parameter or buffer of the network, by its path."""

    path: str


@dataclass
class Call:
    """One call of a torch function or of a module of torch.nn, in the order of execution.

    `made` says what it gave: a single tensor, or the place of each among several results.
    """

    op: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    made: dict[int | None, Made] = field(default_factory=dict)


@dataclass
class Trace:
    """One run of a network.

    Attributes:
        calls: the first stands for the images.
        outputs: module path -> what it gave, tensors as `Given`, and how many calls there were then.
        result: the logits.
    """

    calls: list[Call] = field(default_factory=lambda: [Call("placeholder", "images", (), {})])
    outputs: dict[str, tuple[Any, int]] = field(default_factory=dict)
    result: Any = None


class _Watch(TorchFunctionMode):
    """Writes down every call of a torch function, except within modules of torch.nn, which count as one call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.trace = Trace()
        self.within_leaf = 0
        self.stored = {id(t): path for path, t in (*model.named_parameters(), *model.named_buffers())}
        # results by identity; held, so that no identity is given twice
        self.known: dict[int, tuple[Tensor, Given]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.within_leaf:
            return func(*args, **kwargs)
        before = self.references(args), self.references(kwargs)  # what is changed in place is known by its old call
        outcome = func(*args, **kwargs)
        if func is Tensor.__setitem__:
            self.add("call_function", _set_item, *before, args[0])
        elif _tensors(outcome):
            self.add(*_as_node(func, *before), outcome)
        return outcome

    def add(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outcome: Any) -> None:
        call = Call(op, target, args, kwargs)
        self.trace.calls.append(call)
        place = len(self.trace.calls) - 1
        for item, value in [(None, outcome)] if isinstance(outcome, Tensor) else enumerate(outcome):
            if isinstance(value, Tensor):
                self.known[id(value)] = (value, Given(place, item))
                call.made[item] = Made(tuple(value.shape), value.is_floating_point())

    def references(self, values: Any) -> Any:
        """The same structure with tensors as what they are to the graph."""
        return map_aggregate(values, self._reference)

    def _reference(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) in self.known:
                return self.known[id(value)][1]
            if id(value) in self.stored:
                return Stored(self.stored[id(value)])
        return value


def trace(model: nn.Module, images: Tensor) -> Trace:
    """Run the model (in eval mode) on normalised images (N,3,H,W) and write down what it does."""
    watch = _Watch(model)
    watch.known[id(images)] = (images, Given(0))
    with _watched_modules(model, watch), torch.no_grad(), watch:
        result = model(images)
    watch.trace.result = watch.references(result)
    return watch.trace


@contextmanager
def _watched_modules(model: nn.Module, watch: _Watch) -> Iterator[None]:
    pending: list[tuple[Any, Any]] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        if not watch.within_leaf:
            pending.append((watch.references(args), watch.references(kwargs)))
        watch.within_leaf += 1

    def leave(path: str, leaf: bool) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, outcome: Any) -> None:
            watch.within_leaf -= leaf
            if watch.within_leaf:
                return
            if leaf:
                watch.add("call_module", path, *pending.pop(), outcome)
            watch.trace.outputs[path] = (watch.references(outcome), len(watch.trace.calls))

        return hook

    handles = []
    for path, module in model.named_modules():
        if path and _is_leaf(module):
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        if path:
            handles.append(module.register_forward_hook(leave(path, _is_leaf(module))))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_leaf(module: nn.Module) -> bool:
    if getattr(module, "opaque", False) is True:
        return True
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return type(module).__module__.startswith("torch.nn") and not isinstance(module, containers)


def _as_node(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, Any, Any, Any]:
    """How torch.fx writes this call."""
    name = getattr(func, "__name__", "")
    if name == "__get__":  # a property such as x.T
        return "call_function", getattr, (args[0], func.__self__.__name__), {}
    method = isinstance(func, types.MethodDescriptorType | types.WrapperDescriptorType)
    if method or getattr(Tensor, name, None) is func or getattr(func, "__module__", "") == "torch._tensor":
        return "call_method", name, args, kwargs
    return "call_function", func, args, kwargs


def _set_item(tensor: Tensor, place: Any, value: Any) -> Tensor:
    """`tensor[place] = value`, as a call with a result: what comes later depends on it."""
    tensor[place] = value
    return tensor


def _tensors(outcome: Any) -> bool:
    return any(isinstance(value, Tensor) for value in (outcome if isinstance(outcome, list | tuple) else [outcome]))


@dataclass(frozen=True)
class Traced:
    """The graph of a network.

    Attributes:
        graph: its first nodes are the images and their batch size; its output is that of the model.
        batch: the node of the batch size.
        nodes: for each call its node.
        outputs: as in `Trace`, with nodes in place of results.
        image_shape: (3, H, W); sizes in the graph hold for it alone.
    """

    graph: fx.Graph
    batch: fx.Node
    nodes: list[fx.Node]
    outputs: dict[str, tuple[Any, int]]
    image_shape: tuple[int, int, int]


def trace_graph(model: nn.Module, image_shape: tuple[int, int, int]) -> Traced:
    """The graph of what `model` does to a batch of any size of normalised images (N, *image_shape).

    Raises:
        DpbenchError: what it does depends on the batch size in other ways than by multiples of it.
    """
    some = next(iter(model.parameters()), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    # each on a copy of its own: some families keep tables after their first run
    first, second = (
        trace(copy.deepcopy(model).train().eval(), torch.randn(n, *image_shape, generator=generator).to(some.device))
        for n in BATCHES
    )
    runs = [[(call.op, call.target) for call in run.calls] for run in (first, second)]
    if runs[0] != runs[1]:
        raise DpbenchError(DEPENDS)
    graph = fx.Graph()
    images = graph.placeholder("images")
    batch = graph.call_method("size", (images, 0))
    builder = _Builder(graph, batch, model)
    builder.nodes.append(images)
    for one, other in zip(first.calls[1:], second.calls[1:], strict=True):
        args, kwargs = builder.joined(one.args, other.args), builder.joined(one.kwargs, other.kwargs)
        builder.nodes.append(graph.create_node(one.op, one.target, args, kwargs))
        builder.made.append(one.made)
    graph.output(builder.joined(first.result, second.result))
    outputs = {
        path: (builder.joined(value, second.outputs[path][0]), place) for path, (value, place) in first.outputs.items()
    }
    return Traced(graph, batch, builder.nodes, outputs, image_shape)


class _Builder:
    """Joins two runs into one graph: where they differ, it is by the batch size."""

    def __init__(self, graph: fx.Graph, batch: fx.Node, model: nn.Module) -> None:
        self.graph = graph
        self.batch = batch
        self.model = model
        self.nodes: list[fx.Node] = []
        self.made: list[dict[int | None, Made]] = [{}]
        self.stored: dict[str, fx.Node] = {}
        self.items: dict[Given, fx.Node] = {}

    def joined(self, one: Any, other: Any) -> Any:
        if isinstance(one, Given):
            return self._result(one)
        if isinstance(one, Stored):
            return self._stored(one.path)
        if isinstance(one, Tensor):
            return self._constant(one)
        if isinstance(one, torch.device):
            return self.graph.call_function(getattr, (self.nodes[0], "device"))
        if isinstance(one, list | tuple):
            parts = [self.joined(a, b) for a, b in zip(one, other, strict=True)]
            return parts if type(one) is list else tuple(parts)
        if isinstance(one, dict):
            return {key: self.joined(value, other[key]) for key, value in one.items()}
        if isinstance(one, slice):
            return slice(*(self.joined(getattr(one, k), getattr(other, k)) for k in ("start", "stop", "step")))
        if isinstance(one, int) and not isinstance(one, bool) and one != other:
            return self._multiple(one, other)
        return one

    def _multiple(self, one: int, other: int) -> fx.Node:
        factor, rest = divmod(one, BATCHES[0])
        if rest or other != factor * BATCHES[1]:
            raise DpbenchError(DEPENDS)
        return self.graph.call_function(operator.mul, (self.batch, factor)) if factor != 1 else self.batch

    def _result(self, result: Given) -> fx.Node:
        node = self.nodes[result.call]
        if result.item is not None:
            if result not in self.items:
                self.items[result] = self.graph.call_function(operator.getitem, (node, result.item))
            node = self.items[result]
        node.meta[MADE] = self.made[result.call].get(result.item)
        return node

    def _stored(self, path: str) -> fx.Node:
        if path not in self.stored:
            with self.graph.inserting_after(self.nodes[0]):
                self.stored[path] = self.graph.get_attr(path)
        return self.stored[path]

    def _constant(self, tensor: Tensor) -> fx.Node:
        """A tensor that is neither stored nor computed in the run: made before, such as a cached table."""
        name = f"_constant_{sum(1 for path in self.stored if path.startswith('_constant_'))}"
        self.model.register_buffer(name, tensor.detach().clone(), persistent=False)
        return self._stored(name)
