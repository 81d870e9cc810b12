"""What the server computes on the way from a release to logits, found by watching its `predict` run.

Every call of a torch function is watched, as in `dpbench.models.tracing`, so it does not matter of which modules the
server is built, or whether of any: what goes into a call and what comes out of it is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dpbench.contract.attack import Server
from dpbench.contract.defense import ProtectedModel
from dpbench.errors import DpbenchError
from dpbench.service.quantisation import as_sent
from dpbench.service.release import RELEASE_BATCH

BATCHES = (3, 2)
"""Batch sizes of the two runs that tell rows of images from other rows: what has one per image follows them."""


class _Watch(TorchFunctionMode):
    """Sees every floating tensor that goes into a torch function or comes out of one, each once, in order.

    Args:
        keep: whether to keep the tensor of this number.
    """

    def __init__(self, keep: Callable[[int, Tensor], bool]) -> None:
        super().__init__()
        self.keep = keep
        self.kept: dict[int, Tensor] = {}
        self.count = 0
        # held while the run lasts, or memory that is used again would look like a tensor that was seen
        self._seen: dict[tuple[object, ...], Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.look(args)
        self.look(tuple(kwargs.values()))
        outcome = func(*args, **kwargs)
        self.look(outcome)
        return outcome

    def look(self, value: Any) -> None:
        """Note a tensor, or those in a list or tuple, unless it was seen before."""
        if isinstance(value, list | tuple):
            for item in value:
                self.look(item)
            return
        if not isinstance(value, Tensor) or isinstance(value, nn.Parameter) or not value.is_floating_point():
            return
        if value.ndim == 0 or value.layout is not torch.strided:
            return
        try:
            address = value.data_ptr()
        except RuntimeError:  # within vmap there are no numbers to look at
            return
        # the same numbers under another shape are another tap: the layout is what an attack goes by
        place = (address, tuple(value.shape), value.stride(), value.dtype, value._version)
        if place in self._seen:
            return
        self._seen[place] = value
        if self.keep(self.count, value):
            # a copy: the server may go on to write into it
            self.kept[self.count] = value.clone()
        self.count += 1


@dataclass(frozen=True)
class _Found:
    """What the watched server computes.

    Attributes:
        taps: places of the tensors with a row per image, counted from the last one (-1); without the release itself.
        count: tensors in a run.
        batch: images to run at once.
    """

    taps: tuple[int, ...]
    count: int
    batch: int


class TappedServer:
    """The server's half as the attacker holds it, see `dpbench.contract.attack.Server`.

    Args:
        model: the defended model, frozen, in eval mode; an instance that has released nothing, so that nothing but
            the features passes between client and server.
    """

    def __init__(self, model: ProtectedModel) -> None:
        self.model = model
        self._found: _Found | None = None

    def activations(self, released: Tensor) -> tuple[Tensor, ...]:
        """See `dpbench.contract.attack.Server`."""
        found = self._taps(released)
        parts = [self._run(chunk, found, found.taps) for chunk in released.split(found.batch)]
        return (released, *(torch.cat(tap) for tap in zip(*parts, strict=True)))

    def activation(self, released: Tensor, place: int) -> Tensor:
        """See `dpbench.contract.attack.Server`."""
        if place == 0:
            return released
        found = self._taps(released)
        wanted = found.taps[place - 1 : place]
        return torch.cat([self._run(chunk, found, wanted)[0] for chunk in released.split(found.batch)])

    def _taps(self, released: Tensor) -> _Found:
        """Which of the tensors that are seen have a row per image."""
        if self._found is not None:
            return self._found
        itself = int(released.is_floating_point())  # the first that is seen, unless it is of integers
        with torch.no_grad():
            few, fewer = (self._shapes(released[:1].repeat_interleave(n, 0)) for n in BATCHES)
            if len(few) == len(fewer):
                both = list(zip(few, fewer, strict=True))
                taps = [i for i, (a, b) in enumerate(both) if (a[0], b[0]) == BATCHES and a[1:] == b[1:]]
                self._found = _Found(tuple(i - len(few) for i in taps[itself:]), len(few), RELEASE_BATCH)
                return self._found
            # it takes the images one by one, or one needs more steps than another: what comes last is alike
            runs = [self._shapes(row) for row in released[:RELEASE_BATCH].split(1)]
            alike = range(itself - min(map(len, runs)), 0)
            taps = [i for i in alike if runs[0][i][0] == 1 and all(run[i] == runs[0][i] for run in runs)]
            self._found = _Found(tuple(taps), len(runs[0]), 1)
            return self._found

    def _shapes(self, released: Tensor) -> list[tuple[int, ...]]:
        """Shapes of all floating tensors that `predict` computes, in order."""
        shapes: list[tuple[int, ...]] = []

        def note(number: int, tensor: Tensor) -> bool:
            shapes.append(tuple(tensor.shape))
            return False

        self._watched(released, note)
        return shapes

    def _run(self, released: Tensor, found: _Found, wanted: tuple[int, ...]) -> list[Tensor]:
        """The wanted tensors of one run, each with a row per image."""
        numbers = {found.count + i for i in wanted}
        watch = self._watched(released, lambda number, tensor: number in numbers)
        if watch.count != found.count:
            watch = self._watched(released, lambda number, tensor: len(tensor) == len(released))
        tensors = [watch.kept.get(watch.count + i) for i in wanted]
        if any(tensor is None or len(tensor) != len(released) for tensor in tensors):
            raise DpbenchError("the server computes something else for these images than for others; it cannot be read")
        return [tensor for tensor in tensors if tensor is not None]

    def _watched(self, released: Tensor, keep: Callable[[int, Tensor], bool]) -> _Watch:
        watch = _Watch(keep)
        watch.look(released)
        with _module_inputs(self.model, watch), watch:
            logits = self.model.predict(released)
        watch.look(logits)
        return watch


@contextmanager
def _module_inputs(model: nn.Module, watch: _Watch) -> Iterator[None]:
    """Shows `watch` what enters and leaves modules: compiled ones call no torch function that could be seen."""

    def look(value: Any) -> None:
        with torch._C.DisableTorchFunction():  # or it would watch itself look
            watch.look(value)

    handles = [
        handle
        for module in model.modules()
        for handle in (
            module.register_forward_pre_hook(lambda _, args: look(args)),
            module.register_forward_hook(lambda _, args, outcome: look(outcome)),
        )
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Sent:
    """A server that is sent integers, for attackers who read what they mean."""

    def __init__(self, server: Server, dtype: torch.dtype, scale: float, zero_point: float) -> None:
        self.server = server
        self.steps = (dtype, scale, zero_point)

    def activations(self, released: Tensor) -> tuple[Tensor, ...]:
        """See `dpbench.contract.attack.Server`; the release first, as it is meant."""
        _, *taps = self.server.activations(as_sent(released, *self.steps))
        return released, *taps

    def activation(self, released: Tensor, place: int) -> Tensor:
        """See `dpbench.contract.attack.Server`."""
        return released if place == 0 else self.server.activation(as_sent(released, *self.steps), place)
