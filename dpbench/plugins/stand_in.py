"""Classes that stand in the engine for plug-ins whose code it never imports."""

from __future__ import annotations

import abc
import functools
from pathlib import Path
from typing import Any, ClassVar, Literal

import pydantic
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from dpbench.border.host import Guest
from dpbench.border.wire import Message
from dpbench.contract.attack import Attack, Observation
from dpbench.contract.dataset import Drawn, ImageSet, PartName
from dpbench.contract.defense import Defense, ProtectedModel, SplitModel
from dpbench.contract.metric import Metric, MetricFacts
from dpbench.contract.plugin import Plugin
from dpbench.contract.spec import PLUS
from dpbench.contract.threat import Needs
from dpbench.errors import DpbenchError
from dpbench.machine import plugin_files


class _Parameter(BaseModel):
    """A parameter of a plug-in, as its process describes it."""

    model_config = ConfigDict(extra="forbid")

    default: Any
    description: str
    range: str
    file: bool


class _Facts(BaseModel):
    """A plug-in, as its process describes it: checked, since nobody vouches for that process."""

    model_config = ConfigDict(extra="forbid", strict=True)

    sort: Literal["attack", "defense", "metric", "data set"]
    reference: str
    cls: str = Field(alias="class", pattern=r"^[^\W\d]\w*$")
    doc: str
    source: str
    name: str
    version: int
    paper: str
    ids_skip_default: list[str]
    fields: dict[str, _Parameter]
    needs: Needs = "nothing"
    floor: bool = False
    combines: bool = False
    budgets: dict[str, dict[str, float]] = Field(default_factory=dict)
    trained_on: list[str] = Field(default_factory=list)
    metric: MetricFacts | None = None
    classes: list[str] = Field(default_factory=list)


class StandIn(Plugin, abc.ABC):
    """What the engine knows of a plug-in that lives behind the border."""

    reference: ClassVar[str]
    source: ClassVar[str]
    ranges: ClassVar[dict[str, str]]
    code: ClassVar[dict[str, str]] = {}
    """Files that the plug-in consists of -> digits of their SHA-256."""
    file_parameters: ClassVar[frozenset[str]]

    @property
    def values(self) -> dict[str, Any]:
        """Its parameters, files as paths."""
        return {
            name: _as_paths(getattr(self, name)) if name in self.file_parameters else getattr(self, name)
            for name in type(self).model_fields
        }

    def assert_at_hand(self) -> None:
        """Asks the plug-in, in its own process, whether what it needs is on this machine."""
        configured(type(self), self.model_dump(mode="json"), at_hand=True)


def _as_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_as_paths(inner) for inner in value]
    return Path(value) if isinstance(value, str) else value


class DefenseStandIn(StandIn, Defense, abc.ABC):
    """A defense that is built and fitted in a process of its own; see `dpbench.plugins.apart.remote`."""

    def build(self, split: SplitModel) -> ProtectedModel:
        """Raises: a stand-in holds no code of the plug-in."""
        raise DpbenchError(f"defense {self.reference!r} is built in its own process alone")


class AttackStandIn(StandIn, Attack, abc.ABC):
    """An attack that runs in a process of its own; see `dpbench.plugins.apart.remote`."""

    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """Raises: a stand-in holds no code of the plug-in."""
        raise DpbenchError(f"attack {self.reference!r} runs in its own process alone")


class MetricStandIn(StandIn, Metric, abc.ABC):
    """A metric that measures in a process of its own; see `dpbench.plugins.measuring`."""

    def measure(self, images: Tensor, victims: Tensor) -> Tensor:
        """Raises: a stand-in holds no code of the plug-in."""
        raise DpbenchError(f"metric {self.reference!r} measures in its own process alone")


class ImageSetStandIn(StandIn, ImageSet, abc.ABC):
    """A data set that draws in a process of its own; see `dpbench.plugins.image_sets`."""

    def draw(self, part: PartName, indices: range, *, size: int, seed: int) -> Drawn:
        """Raises: a stand-in holds no code of the plug-in."""
        raise DpbenchError(f"data set {self.reference!r} draws in its own process alone")


STAND_INS: dict[str, type[StandIn]] = {
    "attack": AttackStandIn,
    "defense": DefenseStandIn,
    "metric": MetricStandIn,
    "data set": ImageSetStandIn,
}


def sort_of(cls: type[StandIn]) -> str:
    """See `dpbench.plugins.registry.BASES`."""
    return next(sort for sort, base in STAND_INS.items() if issubclass(cls, base))


def find(sort: str, reference: str, content: str) -> type[Plugin]:
    """The stand-in for `path/to/file.py:Name`.

    Args:
        sort: what is expected there.
        reference: the file and the class.
        content: identifies the code: what is known of it holds while this stays.

    Raises:
        DpbenchError: no such class, or its code does not import.
    """
    return _found(sort, reference, content)


@functools.lru_cache(maxsize=64)
def _found(sort: str, reference: str, content: str) -> type[Plugin]:
    guest = Guest(f"{sort} {reference!r}", torch.device("cpu"))
    return _stand_ins(guest, sort, reference)[0]


def installed() -> list[type[Plugin]]:
    """Stand-ins for everything that installed packages other than dpbench register.

    Raises:
        DpbenchError: one of them does not import.
    """
    return _stand_ins(Guest("an installed plug-in", torch.device("cpu")), "attack", None)


def _stand_ins(guest: Guest, sort: str, reference: str | None) -> list[type[Plugin]]:
    answer = guest.request(Message("describe", {"sort": sort, "reference": reference}))
    try:
        described = [_Facts.model_validate(facts) for facts in answer.fields["found"]]
        if reference is not None and [(facts.sort, facts.reference) for facts in described] != [(sort, reference)]:
            raise ValueError("another plug-in")
        return [_made(facts) for facts in described]
    except (KeyError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise DpbenchError(f"{guest.who} describes itself in a way that nobody understands ({reason})") from error
    finally:
        guest.close()


def files_in(reference: str) -> list[Path]:
    """The files that a reference names: one for each part of it that is `path/to/file.py:Name`."""
    return [Path(part.rpartition(":")[0]) for part in reference.split(PLUS) if ".py:" in part]


def _made(facts: _Facts) -> type[Plugin]:
    base: type[StandIn] = STAND_INS[facts.sort]
    fields: dict[str, Any] = {
        name: (Any, Field(parameter.default, description=parameter.description))
        for name, parameter in facts.fields.items()
    }
    fields["name"] = (ClassVar[str], facts.name)
    cls: type[StandIn] = pydantic.create_model(facts.cls, __base__=base, __doc__=facts.doc, **fields)
    source, code = facts.source, {}
    if ".py:" in facts.reference:  # its own word for what it consists of is not needed
        parts = [plugin_files.look_at(path) for path in files_in(facts.reference)]
        versions = facts.source if PLUS in facts.reference else f"v{facts.version}"
        source = "-".join([versions, *(looked_at.digest for looked_at in parts)])
        code = {name: digest for looked_at in parts for name, digest in looked_at.files.items()}
    known: dict[str, Any] = {
        **{name: getattr(facts, name) for name in ("version", "paper", "reference")},
        "ids_skip_default": tuple(facts.ids_skip_default),
        "source": source,
        "code": code,
        "file_parameters": frozenset(name for name, parameter in facts.fields.items() if parameter.file),
        "ranges": {name: parameter.range for name, parameter in facts.fields.items()},
    }
    if facts.sort == "attack":
        known |= {name: getattr(facts, name) for name in ("needs", "floor", "budgets", "combines")}
    if facts.sort == "defense":
        known["trained_on"] = tuple(facts.trained_on)
    if facts.sort == "metric":
        if facts.metric is None:
            raise ValueError("a metric that does not say how it is read")
        low, high = facts.metric.range
        known |= facts.metric.model_dump(include={"name", "closer", "decimals", "tolerance"}) | {
            "low": low,
            "high": high,
        }
    if facts.sort == "data set":
        known["classes"] = tuple(facts.classes)
    for name, value in known.items():
        setattr(cls, name, value)
    return cls


def configured(cls: type[StandIn], arguments: dict[str, Any], *, at_hand: bool = False) -> dict[str, Any]:
    """All parameters, as the plug-in itself accepts them.

    Args:
        cls: what stands in for it.
        arguments: those that are given, as JSON values.
        at_hand: ask too whether what it needs is on this machine.

    Raises:
        DpbenchError: a value out of its range, or something that is not at hand.
    """
    sort = sort_of(cls)
    accepted = asked_apart(sort, cls.reference, arguments, at_hand=at_hand)
    if not isinstance(accepted, dict) or set(accepted) - set(cls.model_fields):
        raise DpbenchError(f"{sort} {cls.reference!r} has other parameters than it said")
    return accepted


def asked_apart(
    sort: str,
    reference: str,
    arguments: dict[str, Any],
    *,
    at_hand: bool,
    image_shape: tuple[int, int, int] | None = None,
) -> Any:
    """The parameters that a plug-in accepts in a process of its own, when it is asked all this."""
    guest = Guest(f"{sort} {reference!r}", torch.device("cpu"))
    try:
        asked = {"sort": sort, "reference": reference, "arguments": arguments, "at_hand": at_hand}
        answer = guest.request(Message("configure", asked | {"image_shape": image_shape and list(image_shape)}))
        return answer.fields.get("arguments")
    finally:
        guest.close()
