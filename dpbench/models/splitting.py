"""A network cut in two at the output of one of its modules.

Everything computed before the module has given its output is the client's, everything after is the server's; what the
server reads of the client's values is released. That is the module's output alone in most networks. Where more
feature tensors cross, they are released as one (see `Packing`); tables and sizes that do not depend on the image are
computed on both sides.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, fx, nn

from dpbench.contract.defense import SplitModel
from dpbench.errors import DpbenchError
from dpbench.machine.devices import float64_device
from dpbench.models.backbones import normalisation, resolve_split_point, split_points
from dpbench.models.packing import Packing, Uncuttable, packing_of
from dpbench.models.tracing import Traced, trace_graph

EXACT = 1e-5
"""Largest difference between the logits of the halves and of the unsplit network, relative where the largest
exceeds 1."""

STAGE = "stage"
"""In the `meta` of a node of a server tail: the stage whose output it is."""


def split_model(
    model: nn.Module, split_point: str | int, *, image_shape: tuple[int, int, int], classes: int, name: str
) -> SplitModel:
    """Cut a timm model at the output of one of its modules.

    Args:
        model: what `create_backbone` made.
        split_point: a module name such as `layer1` or `blocks.3`, or the index of a stage of `feature_info`.
        image_shape: (3, H, W) of the images in [0,1].
        classes: number of logits.
        name: of the backbone, for messages.

    Raises:
        DpbenchError: no such module, or the network cannot be cut there; the message names points where it can.
    """
    return cut(model, trace_backbone(model, image_shape, name=name), split_point, classes=classes, name=name)


def trace_backbone(model: nn.Module, image_shape: tuple[int, int, int], *, name: str) -> Traced:
    """What `cut` needs of a model, for images of this shape; one trace serves all split points.

    Raises:
        DpbenchError: the network does not take such images, or what it computes hangs on their number.
    """
    try:
        return trace_graph(model.eval(), image_shape)
    except DpbenchError as error:
        raise DpbenchError(f"backbone {name!r} cannot be split: {error}") from error
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise DpbenchError(
            f"backbone {name!r} does not take images of {image_shape[1]}x{image_shape[2]} pixels "
            f"({type(error).__name__}: {reason}); try another image_size"
        ) from error


def cut(model: nn.Module, traced: Traced, split_point: str | int, *, classes: int, name: str) -> SplitModel:
    """The two halves of a traced model, as in `split_model`; checked on images of noise to be exact.

    Raises:
        DpbenchError: no such module, or the network cannot be cut there; the message names points where it can.
    """
    point = resolve_split_point(model, split_point, name=name)
    normalise = normalisation(model)
    images = torch.rand(2, *traced.image_shape, generator=torch.Generator().manual_seed(0))
    images = images.to(next(iter(model.parameters()), images).device)
    normalise.to(images.device)
    try:
        crossing = crossing_values(traced, point)
        packing = packing_of(crossing)
        split = SplitModel(
            nn.Sequential(normalise, fx.GraphModule(model, _head(traced, crossing, packing), class_name="ClientHead")),
            fx.GraphModule(model, _tail(traced, crossing, packing, split_points(model)), class_name="ServerTail"),
            split_point=point,
            image_shape=traced.image_shape,
            classes=classes,
            packed=packing.shapes if packing else (),
        ).eval()
        assert_exact(split, model, images, normalise)
    except Uncuttable as error:
        raise DpbenchError(f"split point {point!r} of {name} {error}; {_advice(model, traced, point)}") from error
    return split


def assert_exact(split: SplitModel, model: nn.Module, images: Tensor, normalise: nn.Module) -> None:
    """Do the halves compute what the network does, of the first of these images (N, 3, H, W) in [0,1]?

    The halves are given all images and the network one: what is released of an image must be that image's alone.

    Raises:
        Uncuttable: a logit is off by more than `EXACT`, and so it is in float64.
    """
    difference = _difference(split, model, images, normalise)
    if difference <= EXACT:
        return
    # networks amplify the rounding of float32, by how much hangs on the processor; float64 shows the cut alone
    if not _difference_in_double(split, model, images, normalise) <= EXACT:
        raise Uncuttable(f"cannot be cut exactly: the logits of the two halves are off by {difference:.1e}")


def _difference(split: SplitModel, model: nn.Module, images: Tensor, normalise: nn.Module) -> float:
    with torch.no_grad():
        expected = model(normalise(images[:1]))
        found = split.server_tail(split.client_head(images)[:1])
    return float((found - expected).abs().max()) / max(1.0, float(expected.abs().max()))


def _difference_in_double(split: SplitModel, model: nn.Module, images: Tensor, normalise: nn.Module) -> float:
    split, model, normalise = copy.deepcopy((split, model, normalise))
    device = float64_device(images.device)
    try:
        for module in (split, model, normalise):
            module.to(device).double()
        return _difference(split, model, images.to(device).double(), normalise)
    except (RuntimeError, TypeError):  # a network that names float32 in its code
        return math.inf


def crossing_values(traced: Traced, point: str) -> list[fx.Node]:
    """What the server reads of the client's values, the output of the module first."""
    output, place = _output(traced, point)
    released: list[fx.Node] = []
    fx.node.map_arg(output, released.append)
    carrying = _carrying(traced)
    released = [node for node in dict.fromkeys(released) if node in carrying]
    if not released:
        raise Uncuttable("gives no tensor that depends on the image")
    before = set(traced.nodes[:place])
    before |= {node for node in traced.graph.nodes if _is_item(node) and node.args[0] in before}
    result = next(node for node in traced.graph.nodes if node.op == "output")
    needed = ancestors(result)
    read = [
        node
        for node in traced.graph.nodes
        if node in carrying
        and node in before
        and any(u in needed and u in carrying and u not in before for u in node.users)
    ]
    if traced.nodes[0] in read:
        raise Uncuttable("lets the image itself cross")
    if not set(released) & set(read):
        raise Uncuttable("gives nothing that the rest of the network reads")
    return [node for node in released if node in read] + [node for node in read if node not in released]


def _output(traced: Traced, point: str) -> tuple[Any, int]:
    """What a module gave, and after how many calls; of a list of modules, what the last of them gave."""
    if point in traced.outputs:
        return traced.outputs[point]
    within = [ran for path, ran in traced.outputs.items() if path.startswith(f"{point}.")]
    if not within:
        raise Uncuttable("does not run when the network is given an image")
    return max(within, key=lambda ran: ran[1])


def _is_item(node: fx.Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"


def _carrying(traced: Traced) -> set[fx.Node]:
    """Values computed from the pixels; sizes, tables and parameters are not."""
    carrying = {traced.nodes[0]}
    sizes = {traced.batch} | {
        node for node in traced.graph.nodes if node.target is getattr and node.args[1:] == ("device",)
    }
    for node in traced.graph.nodes:
        if node not in sizes and any(source in carrying for source in node.all_input_nodes):
            carrying.add(node)
    return carrying


def ancestors(node: fx.Node, stop: frozenset[fx.Node] = frozenset()) -> set[fx.Node]:
    """A node of a graph and all that it is computed from; what comes before those in `stop` is left out."""
    found: set[fx.Node] = set()
    queue = [node]
    while queue:
        current = queue.pop()
        if current in found:
            continue
        found.add(current)
        if current not in stop:
            queue.extend(current.all_input_nodes)
    return found


def _copied(traced: Traced, wanted: list[fx.Node]) -> fx.Graph:
    """A graph from images to a tuple of these values, copied from that of the network."""
    graph = fx.Graph()
    needed: set[fx.Node] = set().union(*(ancestors(node) for node in wanted))
    copies: dict[fx.Node, fx.Node] = {}
    for node in traced.graph.nodes:
        if node in needed:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in wanted))
    return graph


def _head(traced: Traced, crossing: list[fx.Node], packing: Packing | None) -> fx.Graph:
    """The client head as a module: normalised images to the released tensor."""
    graph = _copied(traced, crossing)
    images, *_, output = graph.nodes
    tensors = list(output.args[0])
    graph.erase_node(output)
    graph.output(packing.pack(graph, images, tensors) if packing else tensors[0])
    graph.lint()
    return graph


def _tail(traced: Traced, crossing: list[fx.Node], packing: Packing | None, stages: list[str]) -> fx.Graph:
    """The server tail as a module: the released tensor to the logits; what a stage gives is marked with its name."""
    graph = fx.Graph()
    released = graph.placeholder("released")
    # the network may work in place, but not on what it was sent
    tensors = packing.unpack(graph, released) if packing else [graph.call_method("clone", (released,))]
    # sizes and the device are read from whatever comes in
    copies = {traced.nodes[0]: released, **dict(zip(crossing, tensors, strict=True))}
    result = next(node for node in traced.graph.nodes if node.op == "output")
    needed = ancestors(result, stop=frozenset(crossing))
    for node in traced.graph.nodes:
        if node in needed and node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    for stage in stages:
        output, _ = traced.outputs.get(stage, (None, 0))
        if isinstance(output, fx.Node) and output in needed - set(crossing):
            copies[output].meta[STAGE] = stage
    graph.lint()
    return graph


def _advice(model: nn.Module, traced: Traced, point: str) -> str:
    """Which stages can be cut, the nearest first."""
    possible: dict[str, int] = {}
    for stage in split_points(model):
        try:
            crossing_values(traced, stage)
        except Uncuttable:
            continue
        possible[stage] = _output(traced, stage)[1]
    if not possible:
        return "no stage of it can be split; choose another backbone"
    place = traced.outputs[point][1] if point in traced.outputs else 0
    nearest = sorted(possible, key=lambda stage: abs(possible[stage] - place))
    return f"its split points, nearest first: {', '.join(nearest)}"
