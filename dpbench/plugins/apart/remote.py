"""Defenses and attacks behind the border, handled as if they were here."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor

from dpbench.border.calls import Calls, FarServer, Remote
from dpbench.border.crowd import Crowd
from dpbench.border.host import Guest
from dpbench.border.wire import Message
from dpbench.contract.attack import Attack, Client, Observation, Server
from dpbench.contract.defense import AdditiveNoise, Defense, ProtectedModel
from dpbench.contract.images import LabelledImages, checked_frames
from dpbench.contract.plugin import Plugin
from dpbench.errors import DpbenchError
from dpbench.models.adapters.program import Program
from dpbench.plugins.apart.telling import named, reads, shown, shows, told, who
from dpbench.plugins.sources import brings_code
from dpbench.plugins.stand_in import StandIn
from dpbench.service.costs import Work, work_of
from dpbench.service.fitting import Recipe, State
from dpbench.service.quantisation import quantisation_of
from dpbench.service.taps import Sent, TappedServer
from dpbench.text.shown_text import clean


def crosses(plugin: Plugin, audit: bool) -> bool:
    """Whether a plug-in gets a process of its own: all in an audit, else those with code that nobody vouches for."""
    return audit or isinstance(plugin, StandIn) or brings_code(plugin)


def fit(
    recipe: Recipe,
    defense: Defense,
    private: LabelledImages,
    device: torch.device,
    progress: Callable[[str], None],
) -> State:
    """Fit a defense as `dpbench.service.fitting.fit` does, in a process of its own that ends afterwards.

    Raises:
        DpbenchError: the defense failed.
    """
    guest = Guest(who(defense), device)
    fields, tensors = told(recipe, defense)
    more, images = shown("private", private)
    try:
        done = guest.request(
            Message("fit", fields | more, tensors | images),
            {"progress": shows(progress), "images": reads({"private": private})},
        )
    finally:
        guest.close()
    return {name: value.to(device) for name, value in done.tensors.items()}


class RemoteModel(ProtectedModel):
    """A protected model in a process of its own, which starts when it is first asked for something.

    `split` is the undefended network, for its shapes and costs alone.

    Args:
        recipe: what it is made of.
        defense: with its parameters.
        learned: what `fit` gave.
        device: where it computes, and where what it gives comes to lie.
    """

    def __init__(self, recipe: Recipe, defense: Defense, learned: State, device: torch.device) -> None:
        super().__init__(recipe.split().to(device))
        self._made_of = (recipe, defense, learned, device)
        self._remote: Remote | None = None
        self._noise: AdditiveNoise | None = None
        self._quantisation = (1.0, 0.0)
        self._sparse = False
        self._serve: Callable[..., Tensor] = lambda images, generator, release: release(images, generator)

    def __deepcopy__(self, memo: dict[int, Any]) -> RemoteModel:
        model = self.renewed()
        model._serve = self._serve
        return model

    def renewed(self) -> RemoteModel:
        """The same model in another process: nothing that this one has seen reaches it."""
        return RemoteModel(*self._made_of)

    def releasing(self, crowd: Crowd) -> RemoteModel:
        """For the release of test images, in a process of its own: among decoys, and with witnesses."""
        model = self.renewed()
        model._serve = crowd.released
        return model

    def answering(self, crowd: Crowd) -> RemoteModel:
        """For an attacker, in a process of its own: test images come among those that it asks for."""
        model = self.renewed()
        model._serve = crowd.asked
        return model

    def line(self) -> Remote:
        """The process that holds the model, started when it is first asked for."""
        if self._remote is None:
            recipe, defense, learned, device = self._made_of
            guest = Guest(who(defense), device)
            fields, tensors = told(recipe, defense)
            tensors |= {f"learned.{name}": value for name, value in learned.items()}
            facts = guest.request(Message("hold", fields, tensors)).fields
            try:
                self._noise = None if facts["noise"] is None else AdditiveNoise(**facts["noise"])
                self._sparse = bool(facts["sparse"])
                self._quantisation = (float(facts["quantisation"][0]), float(facts["quantisation"][1]))
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise DpbenchError(f"{who(defense)} states its noise in a way that nobody understands") from error
            self._remote = Remote(guest, device)
        return self._remote

    def features(self, images: Tensor) -> Tensor:
        """See `ProtectedModel`."""
        return cast(Tensor, self.line()("features", images))

    def release(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """See `ProtectedModel`."""
        line = self.line()
        released: Tensor = self._serve(images, generator, lambda batch, draw: line("release", batch, draw))
        return released

    def location(self, images: Tensor) -> Tensor:
        """See `ProtectedModel`."""
        return cast(Tensor, self.line()("location", images))

    def predict(self, released: Tensor) -> Tensor:
        """See `ProtectedModel`."""
        return cast(Tensor, self.line()("predict", released))

    def quantisation(self) -> tuple[float, float]:
        """See `ProtectedModel`."""
        self.line()
        return self._quantisation

    def is_sparse(self) -> bool:
        """See `ProtectedModel`."""
        self.line()
        return self._sparse

    def noise(self) -> AdditiveNoise | None:
        """See `ProtectedModel`."""
        self.line()
        return self._noise

    def work(self, images: Tensor, generator: torch.Generator) -> Work:
        """What the model does with images, counted in its process by dpbench's own code.

        Raises:
            DpbenchError: what comes back is no such thing.
        """
        opaque = any(isinstance(module, Program) for module in self.split.modules())
        answer = self.line().request(Message("cost", {}, {"images": images, "generator": generator.get_state()})).fields
        try:
            counts = {name: _count(answer[name], opaque) for name in ("client", "server", "stored")}
            milliseconds = float(answer["milliseconds"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DpbenchError(f"its process answered what a release costs with what is no answer ({error})") from error
        known = [count for count in counts.values() if count is not None]
        if not all(0 <= count < 1 << 63 for count in known) or not 0 <= milliseconds < math.inf:
            raise DpbenchError("its process says that a release costs what nothing can cost")
        return Work(**counts, milliseconds=milliseconds, uncounted=clean(str(answer.get("uncounted", ""))))


def _count(told: Any, opaque: bool) -> int | None:
    """A count; of a network of programs it may be none."""
    return None if told is None and opaque else int(told)


def work(model: ProtectedModel, images: Tensor, generator: torch.Generator) -> Work:
    """See `dpbench.service.costs.work_of`, where the model lives."""
    return model.work(images, generator) if isinstance(model, RemoteModel) else work_of(model, images, generator)


def releasing(model: ProtectedModel, crowd: Crowd) -> ProtectedModel:
    """The model for the release of test images: see `RemoteModel.releasing`."""
    return model.releasing(crowd) if isinstance(model, RemoteModel) else model


def answering(model: ProtectedModel, crowd: Crowd | None) -> ProtectedModel:
    """The model for an attacker: see `RemoteModel.answering`; without a crowd, another than the defended one."""
    if not isinstance(model, RemoteModel):
        return model
    return model.renewed() if crowd is None else model.answering(crowd)


def tapped(model: ProtectedModel, dtype: torch.dtype) -> Server:
    """The server's half of a model as the attacker holds it, where the model lives; `dtype` is that of its releases."""
    server: Server = FarServer(model.line()) if isinstance(model, RemoteModel) else TappedServer(model)
    return server if dtype.is_floating_point else Sent(server, dtype, *quantisation_of(model))


def reconstruct(attack: Attack, seen: Observation, generator: torch.Generator) -> Tensor:
    """`attack.reconstruct`, in a process that ends with it; what it notes is in `seen.notes` afterwards.

    Raises:
        DpbenchError: the attack failed.
    """
    device = seen.released.device
    guest = Guest(who(attack), device)
    functions: dict[str, Callable[..., Any]] = {}
    granted = []
    if seen.query is not None:
        granted.append("query")
        functions["query"] = seen.query
    if seen.client is not None:
        granted.append("client")
        functions |= _of_client("client", seen.client)
    if seen.server is not None:
        granted.append("server")
        functions["server.activations"] = seen.server.activations
        functions["server.activation"] = seen.server.activation
    if seen.undefended is not None:
        granted.append("undefended")
        functions |= _of_client("undefended", seen.undefended)
    calls = Calls(functions, device)
    releases = (seen.released, *seen.again)
    more, tensors = shown("auxiliary", seen.auxiliary)
    fields = named(attack) | more | {"granted": granted, "releases": len(releases), "adaptive": seen.adaptive}
    fields["found"] = list(seen.found)
    tensors |= {f"released{index}": release for index, release in enumerate(releases)}
    tensors |= {f"found{index}": images for index, images in enumerate(seen.found.values())}
    tensors |= {"overheard": seen.overheard} if seen.overheard is not None else {}
    tensors["generator"] = generator.get_state()
    handlers: dict[str, Callable[[Message], Message]] = {
        "call": calls.answer,
        "gradient": calls.answer,
        "images": reads({"auxiliary": seen.auxiliary}),
        "progress": shows(seen.progress),
    }

    def remember(message: Message) -> Message:
        def train(train_generator: torch.Generator) -> State:
            guest.tell(Message("train", {}, {"generator": train_generator.get_state()}))
            return guest.serve(handlers, until="trained").tensors

        name, depends_on = str(message.fields["name"]), message.fields["depends_on"]
        if depends_on not in ("auxiliary", "query"):
            raise DpbenchError(f"{guest.who}: remember(..., {depends_on!r}) is neither 'auxiliary' nor 'query'")
        depends: Literal["auxiliary", "query"] = "query" if depends_on == "query" else "auxiliary"
        # what others would take for theirs is learned anew: nobody vouches for what comes out of this process
        owner = None if isinstance(attack, StandIn) else message.fields["owner"]
        state = seen.remember(name, train, depends, owner=owner and (str(owner[0]), str(owner[1])))
        return Message("state", {}, state)

    try:
        done = guest.request(Message("reconstruct", fields, tensors), {**handlers, "remember": remember})
    finally:
        guest.close()
    notes = done.fields.get("notes")
    seen.notes.update(notes if isinstance(notes, dict) else {})
    frames = {name.removeprefix("frame"): frame for name, frame in done.tensors.items() if name.startswith("frame")}
    seen.frames.update(checked_frames({int(step): frame for step, frame in frames.items() if step.isdecimal()}))
    if "images" not in done.tensors:
        raise DpbenchError(f"{guest.who} returned no images")
    return done.tensors["images"].to(device)


def _of_client(name: str, client: Client) -> dict[str, Callable[..., Any]]:
    return {
        f"{name}.release": lambda images, generator=None: client.release(images, generator=generator),
        f"{name}.releases": lambda images, draws, generator=None: tuple(
            client.releases(images, draws, generator=generator)
        ),
        f"{name}.features": client.features,
    }
