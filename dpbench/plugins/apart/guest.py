"""What runs in the process of a plug-in: it is told what to hold, answers, and may ask for what it is granted."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from dpbench.border import nursery
from dpbench.border.calls import Calls, FarClient, FarServer, Remote
from dpbench.border.wire import Ended, Message, Wire
from dpbench.contract.attack import Attack, Observation
from dpbench.contract.dataset import ImageSet, checked_images
from dpbench.contract.defense import Defense, ProtectedModel
from dpbench.contract.images import LabelledImages, LazyImages
from dpbench.contract.metric import Metric
from dpbench.contract.plugin import Plugin
from dpbench.errors import DEBUG, DpbenchError, reason, traced
from dpbench.machine import plugin_files
from dpbench.machine.devices import compute_exactly
from dpbench.machine.memory import is_out_of_memory, total_memory
from dpbench.models.spec import BackboneSpec
from dpbench.plugins import registry, sources
from dpbench.plugins.apart.audited import Reading, keep_to_itself
from dpbench.plugins.configuring import configure
from dpbench.plugins.describing import described
from dpbench.plugins.stand_in import files_in
from dpbench.service import costs, fitting
from dpbench.service.composition import Composition
from dpbench.service.quantisation import quantisation_of
from dpbench.service.taps import TappedServer
from dpbench.text.plain_values import plain


def copies(control: int) -> None:
    """Runs in the process that is copied: see `dpbench.border.nursery.copies`."""
    registry.load_own()
    nursery.copies(control, serve)


def alone() -> None:
    """Runs in a process that was started anew: see `dpbench.border.nursery.alone`."""
    registry.load_own()
    nursery.alone(serve)


def serve(incoming: BinaryIO, outgoing: BinaryIO) -> None:
    """Answer until the engine hangs up."""
    wire = Wire(incoming, outgoing, largest=total_memory(torch.device("cpu")))
    if not os.environ.get(DEBUG):
        _be_silent()
    registry.vouch_for_all()
    guest = _Guest(wire)
    while True:
        try:
            message = wire.receive()
        except Ended:
            return
        try:
            answer = guest.answer(message)
        except Ended:
            return
        except BaseException as error:  # whatever a plug-in raises, SystemExit too, is its failure and no more
            said = {"text": reason(error), "traceback": traced(error)}
            answer = Message("error", {**said, "out_of_memory": is_out_of_memory(error)})
        wire.send(answer)


class _Guest:
    """Holds a plug-in, and a model if it is a defense."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.reading: Reading | None = None
        self.device = torch.device("cpu")
        self.calls: Calls | None = None
        self.model: ProtectedModel | None = None

    def answer(self, message: Message) -> Message:
        if message.kind in ("call", "gradient"):
            assert self.calls is not None
            return self.calls.answer(message)
        kinds: dict[str, Callable[[Message], Message]] = {
            "start": self._start,
            "describe": lambda asked: Message("result", {"found": described(**asked.fields)}),
            "configure": self._configure,
            "fit": self._fit,
            "hold": self._hold,
            "cost": self._cost,
            "reconstruct": self._reconstruct,
            "measure": self._measure,
            "draw": self._draw,
        }
        answer = kinds[message.kind](message)
        if self.reading is not None:
            self.reading.check()
        return answer

    def request(self, message: Message) -> Message:
        """Ask the engine for something that is granted."""
        self.wire.send(message)
        answer = self.wire.receive()
        if answer.kind == "refused":
            raise DpbenchError(answer.fields["text"])
        return answer

    def progress(self, text: str) -> None:
        self.wire.send(Message("progress", {"text": str(text)[:200]}))

    def _start(self, message: Message) -> Message:
        self.device = torch.device(message.fields["device"])
        torch.set_num_threads(message.fields["threads"])
        compute_exactly()
        sys.path[:] = message.fields["search"]
        with contextlib.suppress(OSError):  # removed in the meantime: relative paths then fail by themselves
            os.chdir(message.fields["folder"])
        return Message("result")

    def _configure(self, message: Message) -> Message:
        plugin = self._plugin(message.fields)
        if message.fields["at_hand"]:
            plugin.assert_at_hand()
        if isinstance(plugin, Attack) and (shape := message.fields.get("image_shape")) is not None:
            plugin.assert_fits(tuple(shape))
        return Message("result", {"arguments": plugin.model_dump(mode="json")})

    def _fit(self, message: Message) -> Message:
        private = self._images(message, "private")
        learned, _ = fitting.fit(
            _recipe(message), lambda: self._defense(message.fields), private, self.device, self.progress
        )
        return Message("result", {}, {name: value.detach() for name, value in learned.items()})

    def _hold(self, message: Message) -> Message:
        learned = _prefixed(message.tensors, "learned.")
        model = fitting.assemble(_recipe(message), self._defense(message.fields), learned, self.device)
        server = TappedServer(model)
        self.model = model
        self.calls = Calls(
            {
                "release": model.release,
                "features": model.features,
                "location": model.location,
                "predict": model.predict,
                "activations": server.activations,
                "activation": server.activation,
            },
            self.device,
        )
        noise = model.noise()
        told = {
            "noise": None if noise is None else vars(noise),
            "quantisation": quantisation_of(model),
            "sparse": bool(model.is_sparse()),
        }
        keep_to_itself()
        return Message("result", told)

    def _cost(self, message: Message) -> Message:
        assert self.model is not None
        generator = torch.Generator(self.device)
        generator.set_state(message.tensors["generator"])
        return Message("result", vars(costs.work_of(self.model, message.tensors["images"].to(self.device), generator)))

    def _plugin(self, fields: dict[str, Any]) -> Plugin:
        """The plug-in, configured; from here on this process reads what is hashed, and the pictures of a data set."""
        sort, reference = fields["sort"], fields["reference"]
        if ".py:" in reference and sort != "data set":
            for path in files_in(reference):
                self._read_only(plugin_files.look_at(path.resolve()).paths.values())
        cls = registry.find(sort, reference)
        for one in cls.classes if issubclass(cls, Composition) else (cls,):
            if sort != "data set" and not sources.is_own(one):
                self._read_only([sources.folder_of(one)])
        plugin = configure(cls, fields["arguments"])
        if sources.brings_code(plugin):
            self._read_only(())
        if self.reading is not None:
            self._read_only(sources.given_files(plugin).values())
        return plugin

    def _read_only(self, hashed: Iterable[Path]) -> None:
        if self.reading is None:
            self.reading = Reading()
        self.reading.permit(hashed)

    def _defense(self, fields: dict[str, Any]) -> Defense:
        defense = self._plugin(fields)
        assert isinstance(defense, Defense)
        return defense

    def _images(self, message: Message, name: str) -> LabelledImages:
        labels = message.tensors[f"{name}.labels"].to(self.device)
        given = message.tensors.get(f"{name}.images")
        if given is not None:
            return LabelledImages(given.to(self.device), labels, message.fields["batch_size"])

        def read(places: Tensor, device: torch.device) -> Tensor:
            return self.request(Message("images", {"name": name}, {"chosen": places})).tensors["images"].to(device)

        images = LazyImages(read, (len(labels), *message.fields["image_shape"]), self.device)
        return LabelledImages(images, labels, message.fields["batch_size"])

    def _reconstruct(self, message: Message) -> Message:
        attack = self._plugin(message.fields)
        assert isinstance(attack, Attack)
        granted = set(message.fields["granted"])
        remote = Remote(self, self.device)
        notes: dict[str, object] = {}
        overheard = message.tensors.get("overheard")
        released = [message.tensors[f"released{i}"].to(self.device) for i in range(message.fields["releases"])]

        def remember(name: str, train: Any, depends_on: str, *, owner: Any = None) -> dict[str, Tensor]:
            answer = self.request(Message("remember", {"name": name, "depends_on": depends_on, "owner": owner}))
            if answer.kind == "train":
                generator = torch.Generator(self.device)
                generator.set_state(answer.tensors["generator"])
                state = {key: value.detach() for key, value in train(generator).items()}
                answer = self.request(Message("trained", {}, state))
            return {key: value.to(self.device) for key, value in answer.tensors.items()}

        seen = Observation(
            released=released[0],
            again=tuple(released[1:]),
            overheard=None if overheard is None else overheard.to(self.device),
            image_shape=tuple(message.fields["image_shape"]),
            auxiliary=self._images(message, "auxiliary"),
            query=(lambda images: cast(Tensor, remote("query", images))) if "query" in granted else None,
            client=FarClient(remote, "client") if "client" in granted else None,
            server=FarServer(remote, "server.") if "server" in granted else None,
            adaptive=bool(message.fields["adaptive"]),
            undefended=FarClient(remote, "undefended") if "undefended" in granted else None,
            found={
                name: message.tensors[f"found{index}"].to(self.device)
                for index, name in enumerate(message.fields["found"])
            },
            remember=remember,
            progress=self.progress,
            notes=notes,
        )
        generator = torch.Generator(self.device)
        generator.set_state(message.tensors["generator"])
        images = attack.reconstruct(seen, generator=generator)
        if not isinstance(images, Tensor):
            raise DpbenchError(f"attack {attack.name!r} returned {type(images).__name__}; expected images as a Tensor")
        frames = {f"frame{step}": frame for step, frame in seen.frames.items()}
        return Message("result", {"notes": plain(notes)}, {"images": images.detach(), **frames})

    def _measure(self, message: Message) -> Message:
        metric = self._plugin(message.fields)
        assert isinstance(metric, Metric)
        pairs = [message.tensors[name].to(self.device) for name in ("images", "victims")]
        with torch.no_grad():
            figures = metric.measure(*pairs)
        if not isinstance(figures, Tensor):
            raise DpbenchError(
                f"metric {metric.name!r} returned {type(figures).__name__}; expected figures as a Tensor"
            )
        return Message("result", {}, {"figures": figures.detach()})

    def _draw(self, message: Message) -> Message:
        images_of = self._plugin(message.fields)
        assert isinstance(images_of, ImageSet)
        fields = message.fields
        indices = range(fields["first"], fields["first"] + fields["count"])
        drawn = images_of.draw(fields["part"], indices, size=fields["size"], seed=fields["seed"])
        classes = len(type(images_of).classes)
        images, labels = checked_images(drawn, len(indices), size=fields["size"], classes=classes, name=images_of.name)
        pair = {"images": torch.from_numpy(images.copy()), "labels": torch.from_numpy(labels)}
        return Message("result", {}, pair)


def _recipe(message: Message) -> fitting.Recipe:
    fields = message.fields["recipe"]
    backbone = BackboneSpec.model_validate(fields["backbone"])
    return fitting.Recipe(**{**fields, "backbone": backbone}, state=_prefixed(message.tensors, "state."))


def _prefixed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _be_silent() -> None:
    """What a plug-in prints must not end up in the middle of the engine's display."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
