"""Functions of tensors across a border, with gradients: one side calls, the other computes and keeps the graphs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from dpbench.border.wire import Ended, Message
from dpbench.errors import DpbenchError

Function = Callable[..., Tensor | tuple[Tensor, ...]]
"""`function(x)` or `function(x, generator=...)` of a tensor, with one row per image in and out."""


class Line(Protocol):
    """The way to the other side: sends a request and waits for the answer."""

    def request(self, message: Message) -> Message:
        """The answer.

        Raises:
            DpbenchError: what the other side says went wrong there.
        """


class Calls:
    """Computes what the other side asks for.

    Args:
        functions: by the name under which they are called.
        device: where they want their tensors.
    """

    def __init__(self, functions: Mapping[str, Function], device: torch.device) -> None:
        self._functions = functions
        self._device = device
        self._graphs: dict[int, tuple[Tensor, list[Tensor]]] = {}
        self._count = 0

    def answer(self, message: Message) -> Message:
        """To a message of the kind `call` or `gradient`."""
        for token in message.fields.get("drop", []):
            self._graphs.pop(token, None)
        return self._gradient(message) if message.kind == "gradient" else self._call(message)

    def _call(self, message: Message) -> Message:
        function = self._functions.get(message.fields["name"])
        if function is None:
            raise DpbenchError(f"nothing called {message.fields['name']!r} is granted")
        # a copy: whoever computes may write into what it is given
        x = message.tensors["x"].to(self._device, copy=True)
        arguments: dict[str, Any] = dict(message.fields["settings"])
        generator = None
        if "generator" in message.tensors:
            generator = torch.Generator(self._device)
            generator.set_state(message.tensors["generator"])
            arguments["generator"] = generator
        follow = bool(message.fields["follow"])
        with torch.set_grad_enabled(bool(message.fields["grad_mode"])):
            result = function(x.requires_grad_(follow), **arguments)
        outputs = [result] if isinstance(result, Tensor) else list(result)
        for output in outputs:
            if type(output) is not Tensor:
                raise DpbenchError(
                    f"{message.fields['name']} gave {type(output).__name__}; expected a plain torch.Tensor, "
                    "which is all that crosses"
                )
        tensors = {f"y{index}": output.detach() for index, output in enumerate(outputs)}
        if generator is not None:
            tensors["generator"] = generator.get_state()
        differentiable = [follow and output.requires_grad for output in outputs]
        token = None
        if any(differentiable):
            self._count += 1
            token = self._count
            self._graphs[token] = (x, outputs)
        fields = {"differentiable": differentiable, "token": token, "single": isinstance(result, Tensor)}
        return Message("result", fields, tensors)

    def _gradient(self, message: Message) -> Message:
        x, outputs = self._graphs[message.fields["token"]]
        followed = [outputs[index] for index in message.fields["outputs"]]
        given = [message.tensors[f"g{index}"].to(self._device) for index in message.fields["outputs"]]
        # kept until it is dropped: who calls may want the gradient of the same result again
        (gradient,) = torch.autograd.grad(followed, x, given, retain_graph=True, allow_unused=True)
        return Message("result", {}, {} if gradient is None else {"gx": gradient})


class Remote:
    """Calls functions of the other side as if they were here.

    Args:
        line: where requests go.
        device: where results come to lie.
    """

    def __init__(self, line: Line, device: torch.device) -> None:
        self.line = line
        self.device = device
        self._unused: list[int] = []

    def __call__(
        self, name: str, x: Tensor, generator: torch.Generator | None = None, **settings: int
    ) -> Tensor | tuple[Tensor, ...]:
        """What the function `name` of the other side gives for `x`; the generator moves on as it would here."""
        grad_mode = torch.is_grad_enabled()
        follow = grad_mode and x.requires_grad
        call = _Call(self, name, generator, grad_mode, follow, settings)
        results: tuple[Tensor, ...] = _Crossing.apply(call, x)
        return results[0] if call.single else results

    def drop(self, token: int) -> None:
        """Remember that nobody will ask for gradients of a result; the other side is told with the next request."""
        self._unused.append(token)

    def request(self, message: Message) -> Message:
        """Ask, and say what is not needed any more."""
        drop, self._unused = self._unused, []
        return self.line.request(Message(message.kind, message.fields | {"drop": drop}, message.tensors))


class _Call:
    """One call, from its arguments to the graph that the other side keeps for it."""

    def __init__(
        self,
        remote: Remote,
        name: str,
        generator: torch.Generator | None,
        grad_mode: bool,
        follow: bool,
        settings: dict[str, int],
    ) -> None:
        self.remote = remote
        self.name = name
        self.generator = generator
        self.grad_mode = grad_mode
        self.follow = follow
        self.settings = settings
        self.single = True
        self.differentiable: list[bool] = []
        self.token: int | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        tensors = {"x": x}
        if self.generator is not None:
            tensors["generator"] = self.generator.get_state()
        fields = {"name": self.name, "follow": self.follow, "grad_mode": self.grad_mode, "settings": self.settings}
        answer = self.remote.request(Message("call", fields, tensors))
        try:
            self.single = bool(answer.fields["single"])
            self.differentiable = [bool(one) for one in answer.fields["differentiable"]]
            self.token = answer.fields["token"]
            outputs = tuple(answer.tensors[f"y{index}"].to(x.device) for index in range(len(self.differentiable)))
            if self.generator is not None:
                self.generator.set_state(answer.tensors["generator"].to(torch.uint8))
        except (KeyError, TypeError, RuntimeError) as error:
            raise Ended(f"its process answered {self.name} with what is no answer") from error
        if self.token is not None:
            weakref.finalize(self, self.remote.drop, self.token)
        if self.single and len(outputs) != 1:
            raise Ended(f"its process answered {self.name} with {len(outputs)} tensors; expected 1")
        return outputs

    def backward(self, gradients: tuple[Tensor | None, ...]) -> Tensor | None:
        known = {
            index: gradient
            for index, gradient in enumerate(gradients)
            if gradient is not None and self.differentiable[index]
        }
        if self.token is None or not known:
            return None
        fields = {"token": self.token, "outputs": list(known)}
        answer = self.remote.request(Message("gradient", fields, {f"g{i}": g for i, g in known.items()}))
        return answer.tensors.get("gx")


class _Crossing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, x: Tensor) -> tuple[Tensor, ...]:
        outputs = call.forward(x)
        ctx.call, ctx.shape, ctx.device = call, x.shape, x.device
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(
            *(output for output, follows in zip(outputs, call.differentiable, strict=True) if not follows)
        )
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[None, Tensor | None]:
        gradient = ctx.call.backward(gradients)
        if gradient is not None and gradient.shape != ctx.shape:
            raise Ended(f"its process gave a gradient of shape {tuple(gradient.shape)} for {tuple(ctx.shape)}")
        return None, None if gradient is None else gradient.to(ctx.device)


class FarClient:
    """A client of the other side's, see `dpbench.contract.attack.Client`."""

    def __init__(self, remote: Remote, name: str) -> None:
        self._remote = remote
        self._name = name

    def release(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Images -> released features, with gradients."""
        return cast(Tensor, self._remote(f"{self._name}.release", images, generator))

    def releases(self, images: Tensor, draws: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """See `dpbench.contract.attack.Client`."""
        return cast(tuple[Tensor, ...], self._remote(f"{self._name}.releases", images, generator, draws=draws))

    def features(self, images: Tensor) -> Tensor:
        """Images -> features before the defense, with gradients."""
        return cast(Tensor, self._remote(f"{self._name}.features", images))


class FarServer:
    """A server of the other side's, see `dpbench.contract.attack.Server`.

    `prefix` stands before the names of its functions.
    """

    def __init__(self, remote: Remote, prefix: str = "") -> None:
        self._remote = remote
        self._prefix = prefix

    def activations(self, released: Tensor) -> tuple[Tensor, ...]:
        """See `dpbench.contract.attack.Server`."""
        return cast(tuple[Tensor, ...], self._remote(f"{self._prefix}activations", released))

    def activation(self, released: Tensor, place: int) -> Tensor:
        """See `dpbench.contract.attack.Server`."""
        return cast(Tensor, self._remote(f"{self._prefix}activation", released, place=place))
