"""What an attack is, and what it may see.

The signatures are the threat model. `Attack.reconstruct` receives an `Observation` and nothing else: the
victims' images have no way in, and an attack never grades itself.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, Self, get_args

import torch
from torch import Tensor

from dpbench.contract.images import LabelledImages, keep_frame
from dpbench.contract.plugin import Plugin
from dpbench.contract.threat import DERIVED, Budget, Needs
from dpbench.errors import DpbenchError
from dpbench.text.curves import CURVES, keep_point


class Client(Protocol):
    """The client as the attacker holds it in white-box threat models: differentiable, eval mode, frozen."""

    def release(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Images -> released features, with gradients."""

    def releases(self, images: Tensor, draws: int, *, generator: torch.Generator | None = None) -> Sequence[Tensor]:
        """What so many calls of `release` would give; where they share what comes before the draw, it is made once."""

    def features(self, images: Tensor) -> Tensor:
        """Images -> features before the defense, with gradients."""


class Server(Protocol):
    """The server's half as the attacker holds it: what `predict` computes on the way from a release to logits."""

    def activations(self, released: Tensor) -> tuple[Tensor, ...]:
        """Released features (N, ...) -> the floating tensors with one row per image that `predict` computes, in order.

        The release as the server receives it comes first and the logits last; the same numbers under another shape
        count anew. Differentiable where `predict` is.

        Raises:
            DpbenchError: `predict` takes other steps for these images than for others.
        """

    def activation(self, released: Tensor, place: int) -> Tensor:
        """The one at `place` of `activations(released)`, without holding the others."""


class Remember(Protocol):
    """What is worth training once: see `Observation.remember`."""

    def __call__(
        self,
        name: str,
        train: Callable[[torch.Generator], dict[str, Tensor]],
        depends_on: Literal["auxiliary", "query"],
        *,
        owner: tuple[str, str] | None = None,
    ) -> dict[str, Tensor]:
        """`train(generator)`, or the cached result of an earlier call.

        Args:
            name: tells apart what one attack trains; holds its parameters.
            train: its generator is derived from the cache key.
            depends_on: "auxiliary" when training saw nothing but the auxiliary images (a generator: shared by every
                cell), "query" when it also saw answers to queries (a decoder: shared by cells that query the same
                client).
            owner: name and version of a training that several attacks share; by default it is the attack's own.
        """


@dataclass(frozen=True)
class Observation:
    """Everything an attack may see. What is not granted is None. There are no private and no victim images.

        >>> seen = dpbench.Observation(
        ...     released=torch.rand(2, 4, 8, 8),
        ...     image_shape=(3, 16, 16),
        ...     auxiliary=dpbench.LabelledImages(torch.rand(8, 3, 16, 16), torch.arange(8)),
        ...     query=None,
        ...     client=None,
        ...     remember=lambda name, train, depends_on, owner=None: train(torch.Generator()),
        ... )
        >>> seen.granted_query()
        Traceback (most recent call last):
        ...
        dpbench.errors.DpbenchError: this attack needs a client that answers queries; the threat model grants none

    Attributes:
        released: (N, ...) released features of the N victims, of the floating type in which they left the client.
        again: further releases of the same victims, each (N, ...), where the suite grants more than one.
        overheard: (M, ...) released features of other images, which the attacker does not know and need not
            reconstruct; only under `observe`, where nothing can be asked, else None.
        image_shape: (3, H, W) of the images to reconstruct.
        auxiliary: the attacker's own images and labels, disjoint from the victims and from the private images.
        query: black box: images (M,3,H,W) in [0,1] -> released features, fresh randomness at each call,
            through the same code path, precision and mode as the victims' release. No gradients.
        client: white box, see `Client`.
        server: the server's half of the defended model, see `Server`; None where the suite trusts the server.
        adaptive: `query` and `client` are those of the defended model; else of the undefended one, which is all that
            this attacker could prepare on.
        undefended: where `client` is granted, that of the undefended model: its backbone is no secret.
        found: for an attack that combines, what others made of the same victims, (N,3,H,W) in [0,1], by their names;
            each was granted no more than this one.
        remember: `remember(name, train, depends_on)` trains once and caches, see `Remember`.
        progress: shows a short text in the live display.
        notes: facts the attack wants in the record, as plain JSON values (its final loss, whether it
            converged, a fallback it took).
        frames: step -> image, of those given to `log`.
    """

    released: Tensor
    image_shape: tuple[int, int, int]
    auxiliary: LabelledImages
    query: Callable[[Tensor], Tensor] | None
    client: Client | None
    remember: Remember
    again: tuple[Tensor, ...] = ()
    overheard: Tensor | None = None
    server: Server | None = None
    adaptive: bool = True
    undefended: Client | None = None
    found: Mapping[str, Tensor] = field(default_factory=dict)
    progress: Callable[[str], None] = lambda text: None
    notes: dict[str, object] = field(default_factory=dict)
    frames: dict[int, Tensor] = field(default_factory=dict)

    def log(self, step: int, **figures: float | Tensor) -> None:
        """Keep what a loop has reached, as curves of the record: `seen.log(step, loss=loss)`.

        Log as often as you like: of a long curve some two hundred points are kept, over all its steps. What is no
        finite number leaves a gap. `image=images`, (3,H,W) or (N,3,H,W) in [0,1], shows the first of them; a few, in
        small, are kept as a picture.

        Raises:
            DpbenchError: a figure is no single number, an image has another shape, or there are too many curves.
        """
        image = figures.pop("image", None)
        curves = self.notes.setdefault(CURVES, {})
        if not isinstance(curves, dict):
            raise DpbenchError(f"seen.notes[{CURVES!r}] holds what `log` keeps; note something else under another name")
        try:
            for name, figure in figures.items():
                keep_point(curves, name, step, figure)
        except ValueError as error:
            raise DpbenchError(str(error)) from error
        if image is not None:
            keep_frame(self.frames, step, image)

    @property
    def batch_size(self) -> int:
        """At most so many images belong in a network at once; half as many in a second attempt, if memory runs out."""
        return self.auxiliary.batch_size

    def granted_query(self) -> Callable[[Tensor], Tensor]:
        """The black box, or an error that names the missing grant."""
        if self.query is None:
            raise DpbenchError("this attack needs a client that answers queries; the threat model grants none")
        return self.query

    def granted_client(self) -> Client:
        """The white box, or an error that names the missing grant."""
        if self.client is None:
            raise DpbenchError("this attack needs the client's weights; the threat model does not grant them")
        return self.client


class Attack(Plugin, abc.ABC):
    """A way to get images back from released features.

    >>> class Grey(dpbench.Attack):
    ...     name = "grey"
    ...     value: float = 0.5
    ...
    ...     def reconstruct(self, seen, *, generator):
    ...         return torch.full((len(seen.released), *seen.image_shape), self.value)
    >>> Grey(value=0.25).model_dump(), Grey.needs
    ({'value': 0.25}, 'nothing')
    """

    needs: ClassVar[Needs] = "nothing"
    floor: ClassVar[bool] = False
    """True for guesses that reconstruct nothing, at most look something up: they set the floor of the scale."""
    blind: ClassVar[bool] = False
    """True for floors that do not look at the released features: anyone can output them against any defense."""
    combines: ClassVar[bool] = False
    """True where `Observation.found` is read: such an attack runs after the others of its setting."""
    budgets: ClassVar[dict[str, dict[str, float]]] = {}
    """`small` or `large` -> parameter -> factor on its value at `standard`."""

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """Refuse a class that needs what no threat model grants."""
        super().__pydantic_init_subclass__(**options)
        if cls.needs not in get_args(Needs):
            known = ", ".join(map(repr, get_args(Needs)))
            raise DpbenchError(f"{cls.__name__}.needs is {cls.needs!r}; expected one of: {known}")
        if getattr(cls, "name", None) in DERIVED:
            raise DpbenchError(
                f"the name of {cls.__name__} is {cls.name!r}, which boards call rows that are made of several attacks; "
                "choose another"
            )

    def at_budget(self, budget: Budget) -> Self:
        """The same attack with its parameters scaled; whole numbers stay whole, and at least 1."""
        changes: dict[str, float] = {}
        for name, factor in self.budgets.get(budget, {}).items():
            value = getattr(self, name)
            changes[name] = max(1, round(value * factor)) if isinstance(value, int) else value * factor
        return type(self)(**(self.model_dump() | changes))

    def assert_fits(self, image_shape: tuple[int, int, int]) -> None:
        """Override where what it is given must suit the images, (3, H, W), as a generator must.

        Asked when a run is planned, in the process in which the attack will run.

        Raises:
            DpbenchError: it does not; says what was expected, and what came.
        """
        return None

    @abc.abstractmethod
    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """One image per victim, (N,3,H,W) in [0,1], in the order of `seen.released`."""
