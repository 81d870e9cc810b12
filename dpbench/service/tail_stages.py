"""What the public tail computes on its way to the logits, stage by stage: for defenses that keep it, or release it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches

from torch import Tensor, fx, nn

from dpbench.contract.defense import SplitModel
from dpbench.errors import DpbenchError
from dpbench.models.splitting import STAGE, ancestors


def stages_of(split: SplitModel) -> tuple[str, ...]:
    """The stages of the server tail, in the order in which they run.

    Of a network that dpbench has cut: those of timm's `feature_info` behind the split point. Of any other tail: the
    modules that it is made of.
    """
    tail = split.server_tail
    if isinstance(tail, fx.GraphModule):
        return tuple(node.meta[STAGE] for node in tail.graph.nodes if STAGE in node.meta)
    return tuple(name for name, _ in tail.named_children())


def stage_named(split: SplitModel, stage: str | int, *, who: str) -> str:
    """The name of a stage given by its name, or by its number: 1 is the first behind the split point.

    Args:
        split: the two halves.
        stage: a name or a number.
        who: names the defense in messages.

    Raises:
        DpbenchError: there is no such stage; says which there are.
    """
    stages = stages_of(split)
    text = str(stage)
    if text in stages:
        return text
    if text.isascii() and text.isdigit() and 0 < int(text) <= len(stages):
        return stages[int(text) - 1]
    near = get_close_matches(text, stages, n=1)
    suggestion = f" did you mean {near[0]!r}?" if near else ""
    known = f"1 to {len(stages)}: {', '.join(stages)}" if stages else "none; split earlier"
    raise DpbenchError(
        f"{who}: stage {text!r} is not behind the split point {split.split_point!r};{suggestion} stages there: {known}"
    )


def activations(split: SplitModel, features: Tensor, stages: Sequence[str]) -> dict[str, Tensor]:
    """What the tail's stages make of features, differentiable; no more of a network that dpbench has cut runs.

    Args:
        split: the two halves.
        features: (N, ...) as the tail takes them.
        stages: of `stages_of`.

    Returns:
        Stage -> what it gave, (N, ...).
    """
    return _run(split.server_tail, features, stages, to_the_end=False)[0]


def activations_and_logits(
    split: SplitModel, features: Tensor, stages: Sequence[str]
) -> tuple[dict[str, Tensor], Tensor]:
    """As `activations`, and the logits (N, classes) of the same run."""
    found, logits = _run(split.server_tail, features, stages, to_the_end=True)
    assert logits is not None
    return found, logits


def _run(
    tail: nn.Module, features: Tensor, stages: Sequence[str], *, to_the_end: bool
) -> tuple[dict[str, Tensor], Tensor | None]:
    if isinstance(tail, fx.GraphModule):
        return _run_graph(tail, features, stages, to_the_end)
    return _run_modules(tail, features, stages)


def _run_graph(
    tail: fx.GraphModule, features: Tensor, stages: Sequence[str], to_the_end: bool
) -> tuple[dict[str, Tensor], Tensor | None]:
    wanted = {node: node.meta[STAGE] for node in tail.graph.nodes if node.meta.get(STAGE) in stages}
    ends = [node for node in tail.graph.nodes if node.op == "output" and to_the_end]
    needed: set[fx.Node] = set().union(*(ancestors(node) for node in (*wanted, *ends)))
    run = fx.Interpreter(tail, garbage_collect_values=False)
    run.args_iter = iter([features])
    found: dict[str, Tensor] = {}
    for node in tail.graph.nodes:
        if node in needed:
            run.env[node] = run.run_node(node)
            if node in wanted:
                found[wanted[node]] = run.env[node].clone()  # the next stage may work in place
    return found, run.env[ends[0]] if ends else None


def _run_modules(tail: nn.Module, features: Tensor, stages: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
    found: dict[str, Tensor] = {}

    def keeper(stage: str) -> Callable[[nn.Module, object, Tensor], None]:
        def keep(module: nn.Module, given: object, output: Tensor) -> None:
            found[stage] = output.clone()

        return keep

    handles = [tail.get_submodule(stage).register_forward_hook(keeper(stage)) for stage in stages]
    try:
        logits: Tensor = tail(features)
    finally:
        for handle in handles:
            handle.remove()
    return found, logits
