"""A timm name and a split point -> a `SplitModel` whose halves compose to the unsplit network.

The network is traced once with torch.fx and its graph is cut at the output of one module. Both halves share the
parameters of the original network, and nothing is computed twice.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
from timm.layers import get_notrace_functions, get_notrace_modules
from torch import Tensor, fx, nn

from dpbench.errors import DpbenchError, unknown
from dpbench.specs import BackboneSpec
from dpbench.types import SplitModel


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
    config: dict[str, Any] = getattr(model, "default_cfg", None) or {}
    return Normalise(config.get("mean") or (0.5,) * 3, config.get("std") or (0.5,) * 3)


def create_backbone(
    spec: BackboneSpec,
    *,
    image_size: int,
    classes: int,
    pretrained: bool = False,
    state: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """The unsplit timm model for square images of `image_size`, in eval mode.

    Args:
        spec: timm's name and arguments; where the weights come from is decided elsewhere.
        image_size: side in pixels.
        classes: number of logits.
        pretrained: load the weights that timm knows, from this machine or a hub.
        state: load these instead; every tensor has to fit. Position embeddings are resized to the image.

    Raises:
        DpbenchError: timm knows no such model; the model does not take these arguments, this image size or these
            weights; or its weights cannot be downloaded.
    """
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


def split_points(model: nn.Module) -> list[str]:
    """The modules named by the stages of timm's `feature_info`, shallow to deep: what stage indices count."""
    stages = [str(stage["module"]) for stage in getattr(model, "feature_info", [])]
    return [name for name in dict.fromkeys(stages) if name in dict(model.named_modules())]


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
        DpbenchError: no such module; or more than one tensor would cross the cut.
    """
    module_name = resolve_split_point(model, split_point, name=name)
    model.eval()
    graph, outputs = _trace(model, name)
    if module_name not in outputs:
        raise DpbenchError(
            f"split point {module_name!r} of {name} gives no single tensor; {_advice(model, module_name)}"
        )
    head_graph, tail_graph = _cut(graph, outputs[module_name], module_name, model, name)
    head = fx.GraphModule(model, head_graph, class_name="ClientHead")
    tail = fx.GraphModule(model, tail_graph, class_name="ServerTail")
    split = SplitModel(
        nn.Sequential(normalisation(model), head),
        tail,
        split_point=module_name,
        image_shape=image_shape,
        classes=classes,
    )
    return split.eval()


def resolve_split_point(model: nn.Module, split_point: str | int, *, name: str) -> str:
    """The module name of a split point given by name or by stage index.

    Raises:
        DpbenchError: there is no such module or stage; the message suggests the nearest.
    """
    stages = split_points(model)
    text = str(split_point)
    if text.isdigit():
        if int(text) >= len(stages):
            raise DpbenchError(
                f"split point {text} is not in {name}; it has stages 0 to {len(stages) - 1}: {', '.join(stages)}"
            )
        return stages[int(text)]
    if not text or text not in dict(model.named_modules()):
        near = difflib.get_close_matches(text, [n for n, _ in model.named_modules() if n], n=1, cutoff=0.4)
        suggestion = f" did you mean {near[0]!r}?" if near else ""
        raise DpbenchError(f"split point {text!r} is not in {name};{suggestion} its stages: {', '.join(stages)}")
    return text


def _advice(model: nn.Module, module_name: str) -> str:
    stages = split_points(model)
    near = difflib.get_close_matches(module_name, stages, n=1, cutoff=0.3) or stages[:1]
    return f"choose another, such as {near[0]!r} (its stages: {', '.join(stages)})" if near else "choose another"


class _Tracer(fx.Tracer):
    """Symbolic tracing that keeps whole what timm marks as untraceable, and notes each module's output."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self.outputs: dict[str, fx.Node] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, tuple(get_notrace_modules())) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path = self.path_of_module(m)
        result = super().call_module(m, forward, args, kwargs)
        if isinstance(result, fx.Proxy):
            self.outputs[path] = result.node
        return result


def _trace(model: nn.Module, name: str) -> tuple[fx.Graph, dict[str, fx.Node]]:
    tracer = _Tracer()
    optional = inspect.signature(model.forward).parameters.values()
    constants = {p.name: p.default for p in optional if p.default is not inspect.Parameter.empty}
    try:
        graph = tracer.trace(model, concrete_args=constants)
    except Exception as error:
        raise DpbenchError(
            f"backbone {name!r} cannot be split: torch.fx cannot trace it ({type(error).__name__}: {error})"
        ) from error
    return graph, tracer.outputs


def _cut(graph: fx.Graph, cut: fx.Node, module_name: str, model: nn.Module, name: str) -> tuple[fx.Graph, fx.Graph]:
    """Two graphs: everything up to `cut`, and everything after it fed by `cut` alone."""
    head, tail = fx.Graph(), fx.Graph()
    ancestors = _ancestors(cut)
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node in ancestors:
            copies[node] = head.node_copy(node, lambda n: copies[n])
    head.output(copies[cut])

    moved: dict[fx.Node, fx.Node] = {cut: tail.placeholder("released")}
    result = next(node for node in graph.nodes if node.op == "output")
    needed = _ancestors(result, stop=cut)
    for node in graph.nodes:
        if node not in needed or node is cut:
            continue
        # parameters may stand on both sides; values computed from the image may not
        if node.op == "placeholder" or (node in ancestors and node.op != "get_attr"):
            raise DpbenchError(
                f"split point {module_name!r} of {name} lets more than one tensor cross; {_advice(model, module_name)}"
            )
        moved[node] = tail.node_copy(node, lambda n: moved[n])
    head.lint()
    tail.lint()
    return head, tail


def _ancestors(node: fx.Node, stop: fx.Node | None = None) -> set[fx.Node]:
    found: set[fx.Node] = set()
    queue = [node]
    while queue:
        current = queue.pop()
        if current in found:
            continue
        found.add(current)
        if current is not stop:
            queue.extend(current.all_input_nodes)
    return found


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
