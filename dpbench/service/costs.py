"""What a release costs the client: work, what it must store, time, and the bits in which a coder sends it.

All of it is found by running the model, in the process that holds it: whatever a defense is made of, what it computes
on the client's side counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from dpbench.contract.defense import ProtectedModel
from dpbench.errors import NotCounted
from dpbench.machine.process_state import preserved
from dpbench.models.adapters.program import Program
from dpbench.service.quantisation import bits_of

MULTIPLY_ADDS = "client_multiply_adds"
"""Under this name a record says why they are not counted."""

TIMED = 16
"""Images of the batch that is timed."""

REPEATS = 5

CODED = 64
"""Images whose releases are coded together, at most."""

CODED_VALUES = 1 << 21
"""Values of them, at most."""

TABLED = 1 << 16
"""With more distinct values than this nobody sends a table of them."""

FREQUENCY_BITS = 24
"""Of the frequency of a symbol, as the coder keeps it, in the table that is sent along."""

WORD_BITS = 32
"""The coder gives whole words."""


class ClientCost(BaseModel):
    """What the client does, stores and sends for one image, the defense included."""

    model_config = ConfigDict(extra="forbid")

    multiply_adds: int | None = Field(
        description="of a release; convolutions, products and attention count; none where a program is not counted"
    )
    added_multiply_adds: int | None = Field(description="those beyond the undefended client's")
    parameters: int | None = Field(
        description="values of parameters and buffers that a release reads; none of an ONNX program"
    )
    added_parameters: int | None = Field(description="those beyond the undefended client's")
    coded_bits: int | None = Field(None, description="bits of a release, entropy-coded, its table shared by the images")


@dataclass(frozen=True)
class Work:
    """What a model does with an image.

    Attributes:
        client: multiply-adds of `release`; None where they are not counted.
        server: of `predict`, likewise.
        stored: values of parameters and buffers that `release` reads; None where that is not known.
        milliseconds: that the release of a batch of `TIMED` images takes, the median of `REPEATS`.
        uncounted: why multiply-adds are not counted; empty where they are.
    """

    client: int | None
    server: int | None
    stored: int | None
    milliseconds: float
    uncounted: str = ""

    @property
    def share(self) -> float | None:
        """The client's part of the multiply-adds, in [0,1]; None where some are not counted."""
        if self.client is None or self.server is None:
            return None
        total = self.client + self.server
        return self.client / total if total else 0.0


class _Reads(TorchDispatchMode):
    """Notes which tensors are read, by where their storage lies."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._look((*args, *(kwargs or {}).values()))
        return func(*args, **(kwargs or {}))

    def _look(self, value: Any) -> None:
        if isinstance(value, list | tuple):
            for item in value:
                self._look(item)
        elif isinstance(value, Tensor) and value.layout is torch.strided:
            self.found.add(value.untyped_storage().data_ptr())


class _Programs:
    """Notes which programs of a model run, and on what; torch does not see all that they do."""

    def __init__(self, model: nn.Module) -> None:
        self.programs = [module for module in model.modules() if isinstance(module, Program)]
        self.ran: list[tuple[Program, Tensor]] = []

    def __enter__(self) -> _Programs:
        self.handles = [program.register_forward_pre_hook(self._note) for program in self.programs]
        return self

    def __exit__(self, *raised: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _note(self, program: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(program, Program)
        self.ran.append((program, args[0]))

    def multiply_adds(self, seen: int) -> tuple[int | None, str]:
        """Those that torch saw and those that it did not; None and why, where these are not counted."""
        try:
            return seen + sum(program.hidden_multiply_adds(given) for program, given in self.ran), ""
        except NotCounted as error:
            return None, str(error)

    def stored(self, seen: int) -> int | None:
        """Values of parameters that were read, those of programs too; None where a program does not say."""
        known = [program.stored for program in dict.fromkeys(program for program, _ in self.ran)]
        return None if None in known else seen + sum(count or 0 for count in known)


@torch.no_grad()
def work_of(model: ProtectedModel, images: Tensor, generator: torch.Generator) -> Work:
    """What a protected model does with images (N,3,H,W) in [0,1]; the first one is counted, `TIMED` are timed.

    Args:
        model: frozen, in eval mode, in this process.
        images: of which the model works on copies.
        generator: of a stochastic defense.
    """
    first = images[:1].clone()
    reads = _Reads()
    with preserved(), _Programs(model) as client, FlopCounterMode(display=False) as head, reads:
        released = model.release(first, generator=generator)
    with preserved(), _Programs(model) as server, FlopCounterMode(display=False) as tail:
        model.predict(released)
    batch = images[:TIMED]
    with preserved():
        milliseconds = median_milliseconds(lambda: model.release(batch.clone(), generator=generator), images.device)
    of_client, uncounted = client.multiply_adds(int(head.get_total_flops()) // 2)
    of_server, uncounted_too = server.multiply_adds(int(tail.get_total_flops()) // 2)
    return Work(
        client=of_client,
        server=of_server,
        stored=client.stored(_stored(model, reads.found)),
        milliseconds=milliseconds,
        uncounted=uncounted or uncounted_too,
    )


def _stored(model: nn.Module, read: set[int]) -> int:
    """Values of those parameters and buffers whose storage was read."""
    known = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() for tensor in known if tensor.numel() and tensor.untyped_storage().data_ptr() in read)


def median_milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """How long a call takes on a device, the median of `REPEATS` after one that does not count."""
    taken = []
    for _ in range(REPEATS + 1):
        begun = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(1000 * (time.perf_counter() - begun))
    return sorted(taken[1:])[REPEATS // 2]


def cost_of(work: Work, undefended: Work, coded: int | None) -> ClientCost:
    """The cost of a client that does this work, where the undefended one does that."""
    return ClientCost(
        multiply_adds=work.client,
        added_multiply_adds=_beyond(work.client, undefended.client),
        parameters=work.stored,
        added_parameters=_beyond(work.stored, undefended.stored),
        coded_bits=coded,
    )


def _beyond(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one - other


def coded_bits(features: Tensor, fixed: int, dtype: torch.dtype) -> int:
    """Mean bits of one image's release when all are entropy-coded together.

    Few different values are coded by how often each occurs, as one symbol each. Others, as floats mostly are, by
    whether they are zero, then those that are not by their bytes: all first bytes, all second bytes and so on, each
    byte by how often it occurs at its place. The tables of frequencies are sent along and count. Neither knows that
    neighbours resemble each other. Where coding does not help, the release is sent as it is.

    Args:
        features: (N, ...) releases as they are sent, or what their integers mean; at most `CODED` are coded.
        fixed: bits of one release without a coder.
        dtype: in which they are sent.
    """
    most = max(1, CODED_VALUES // max(1, features[0].numel()))
    rows = features[: min(CODED, most)].detach().cpu()
    values = rows.flatten().double().numpy() if rows.dtype == torch.bfloat16 else rows.flatten().numpy()
    known, symbols = np.unique(values, return_inverse=True)
    found = []
    if len(known) <= TABLED:
        found.append(_symbol_bits(symbols.reshape(-1), bits_of(dtype)))
    if dtype.is_floating_point:
        found.append(_byte_bits(rows.flatten().to(dtype)))
    return min([fixed, *(math.ceil(bits / len(rows)) for bits in found)])


def _byte_bits(values: Tensor) -> int:
    """Of floats (n,): whether each is zero, and the bytes of the others, place by place."""
    full = values[values != 0]
    bits = _symbol_bits((values != 0).numpy().astype(np.int64), 1)
    if not len(full):
        return bits
    bytes_ = full.view(torch.uint8).reshape(len(full), -1).numpy()
    return bits + sum(_symbol_bits(np.unique(plane, return_inverse=True)[1].reshape(-1), 8) for plane in bytes_.T)


def _symbol_bits(symbols: npt.NDArray[np.int64], width: int) -> int:
    """Of symbols 0, 1, ... (n,) coded by their frequencies, and of a table that holds each with its `width` bits.

    Where that is more, of the symbols with all bits.
    """
    counts = np.bincount(symbols)
    table = len(counts) * (width + FREQUENCY_BITS)
    coded = WORD_BITS * len(encoded(symbols, counts)) if len(counts) > 1 else 0  # else all is said by the table
    return min(width * len(symbols), table + coded)


def encoded(symbols: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """Symbols (n,) as the words of a range coder that knows how often each occurs."""
    import constriction

    coder = constriction.stream.queue.RangeEncoder()
    coder.encode(symbols.astype(np.int32), model_of(counts))
    words: npt.NDArray[np.uint32] = coder.get_compressed()
    return words


def model_of(counts: npt.NDArray[np.int64]) -> Any:
    """The coder's model of symbols that occur so often; both ends need the same one."""
    import constriction

    return constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)
