"""Messages that cannot run code, and functions with gradients across a border."""

import io
import json
import struct

import pytest
import torch

from dpbench.border.calls import Calls, Remote
from dpbench.border.wire import Ended, Message, Wire
from dpbench.errors import DpbenchError

CPU = torch.device("cpu")


def wires(largest=1 << 24):
    """A pair that hears what it says."""
    stream = io.BytesIO()
    return Wire(stream, stream, largest=largest), stream


@pytest.mark.parametrize(
    "tensor",
    [
        torch.rand(2, 3, 4, 5),
        torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        torch.rand(4, 6)[:, ::2],
        torch.tensor(7, dtype=torch.int8),
        torch.empty(0, 3),
        torch.rand(3, dtype=torch.float64),
        torch.rand(3).bfloat16(),
        torch.tensor([True, False]),
    ],
    ids=["plain", "channels last", "strided", "number", "empty", "double", "half", "bool"],
)
def test_tensors_cross_as_they_lie(tensor):
    wire, stream = wires()
    wire.send(Message("x", {"a": [1, None, "ü"]}, {"t": tensor, "again": tensor}))
    stream.seek(0)
    message = wire.receive()
    assert (message.kind, message.fields) == ("x", {"a": [1, None, "ü"]})
    for came in message.tensors.values():
        assert came.dtype == tensor.dtype
        assert torch.equal(came, tensor)
        assert came.stride() == (tensor.stride() if tensor.ndim == 4 else tensor.contiguous().stride())


def framed(text: bytes, blob: bytes = b"") -> bytes:
    return struct.pack("<QQ", len(text), len(blob)) + text + blob


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        struct.pack("<QQ", 1 << 60, 0),
        struct.pack("<QQ", 2, 1 << 60) + b"{}",
        framed(b"{}"),
        framed(b"[1]"),
        framed(b"\xff\xfe"),
        framed(b"[" * 100_000),
        framed(json.dumps({"kind": 1, "fields": {}, "layouts": {}}).encode()),
        framed(json.dumps({"kind": "x", "fields": {}, "layouts": {}}).encode(), b"no tensors"),
        framed(json.dumps({"kind": "x", "fields": {}, "layouts": {}}).encode(), b"\x80\x04cos\nsystem\n."),
    ],
)
def test_what_is_no_message_is_refused(content):
    with pytest.raises(Ended):
        Wire(io.BytesIO(content), io.BytesIO(), largest=1 << 20).receive()


class Loop:
    """A line to functions in this process."""

    def __init__(self, functions):
        self.calls = Calls(functions, CPU)

    def request(self, message):
        return self.calls.answer(message)


def noisy(x, generator=None):
    return x.sin() + 0.1 * torch.randn(x.shape, generator=generator)


def test_calls_give_values_gradients_and_draws_as_here():
    far = Remote(Loop({"f": noisy, "two": lambda x: (x * 2, (x > 0).float()), "at": lambda x, place: x + place}), CPU)
    here, there = (torch.linspace(-1, 1, 6).view(2, 3).requires_grad_(True) for _ in range(2))
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    for _ in range(2):  # the generator moves on
        one, other = noisy(here, generator=generators[0]), far("f", there, generators[1])
        assert torch.equal(one, other)
    assert torch.equal(*(torch.autograd.grad(y.square().sum(), x)[0] for y, x in ((one, here), (other, there))))
    doubled, flags = far("two", there)
    assert doubled.requires_grad
    assert not flags.requires_grad
    assert torch.equal(far("at", there, place=3), there + 3)
    with torch.no_grad():
        assert not far("f", there, generators[1]).requires_grad
    with pytest.raises(DpbenchError, match="nothing called 'g' is granted"):
        far("g", there)


def test_results_that_nobody_holds_are_forgotten():
    loop = Loop({"f": torch.sin})
    far = Remote(loop, CPU)
    x = torch.ones(2, requires_grad=True)
    for _ in range(5):
        far("f", x).sum().backward()
    far("f", x.detach())
    assert len(loop.calls._graphs) <= 1


def test_what_is_called_gets_a_copy():
    far = Remote(Loop({"f": lambda x: x.mul_(0)}), CPU)
    x = torch.ones(2)
    far("f", x)
    assert torch.equal(x, torch.ones(2))
