"""The nouns of the benchmark: what a defense is, what an attack may see, what both give back.

The signatures are the threat model. `Attack.reconstruct` receives an `Observation` and nothing else: the
victims' images have no way in, and an attack never grades itself.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, Self, get_args

import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from dpbench.errors import DpbenchError
from dpbench.parameters import Parameters

Needs = Literal["nothing", "query", "weights"]
"""What an attack must be granted: nothing but the released features and auxiliary images, the client as a
black box that answers queries, or the client's weights (white box, differentiable)."""

ThreatModel = Literal["static", "query", "weights"]
"""What access the attacker is granted. `static`: query and weights of the *undefended* client (the attacker does not
know the defense); `query`: the defended client as a black box; `weights`: the defended client itself."""

ServerRole = Literal["attacker", "trusted"]
"""Who holds the server's half: the attacker, who then sees whatever `predict` computes from a release, or somebody
whom it cannot look at (the attacker listens on the wire)."""

AuxiliaryData = Literal["shifted", "same"]
"""Which images the attacker has: of another data set, or of the victims' own (never the victims)."""

Budget = Literal["small", "standard", "large"]
"""How much an attack may spend: steps, network size, and the share of its auxiliary images."""

UNDEFENDED = "none"
"""The name of the defense that does nothing: the reference of every board, and what `static` attackers know."""

THREAT_MODELS: tuple[ThreatModel, ...] = get_args(ThreatModel)
"""Weakest first, as the next two."""
AUXILIARY_DATA: tuple[AuxiliaryData, ...] = get_args(AuxiliaryData)
BUDGETS: tuple[Budget, ...] = get_args(Budget)

AUXILIARY_SHARE: dict[Budget, float] = {"small": 0.5, "standard": 0.8, "large": 1.0}
"""Budget -> share of the auxiliary images that the attacker gets."""


def grants(threat_model: ThreatModel, needs: Needs) -> bool:
    """Whether the threat model gives an attack what it needs."""
    return needs == "nothing" or threat_model in ("static", "weights") or threat_model == needs


def optimised_at_once(image_shape: tuple[int, int, int]) -> int:
    """How many images (3,H,W) are optimised at once: 1,024 at 32x32, fewer in proportion to their area, at least 1."""
    return max(1, 1024 * 32 * 32 // (image_shape[1] * image_shape[2]))


class Images(Protocol):
    """(N,3,H,W) float images in [0,1]: a tensor, or, where they do not fit in memory, a file that reads as one.

    Index or split them; whatever comes out is a tensor.
    """

    @property
    def shape(self) -> torch.Size:
        """(N, 3, H, W)."""

    @property
    def device(self) -> torch.device:
        """Where the images that are read come to lie."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Tensor:
        """The images at a slice or an int64 tensor (n,) -> (n,3,H,W); at a number -> (3,H,W)."""

    def narrow(self, dim: int, start: int, length: int) -> Images:
        """The images from `start`, as many as `length`; none is read. `dim` is 0."""

    def split(self, split_size: int, /) -> Iterable[Tensor]:
        """All of them, at most `split_size` at once."""

    def to(self, device: torch.device, /) -> Images:
        """The same, on another device."""


@dataclass(frozen=True)
class LabelledImages:
    """Images and their class indices.

    Attributes:
        images: (N,3,H,W) float in [0,1], see `Images`.
        labels: (N,) int64.
        batch_size: put at most so many of them through a network at once: a plug-in that trains has a batch size of
            its own and takes the smaller one. Smaller numbers follow where memory ran out.
    """

    images: Images
    labels: Tensor
    batch_size: int = 1024

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> LabelledImages:
        """The same images on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def at_most(self, batch_size: int) -> LabelledImages:
        """The same images, for networks that take at most `batch_size` at once."""
        return replace(self, batch_size=batch_size)

    def training_batch(self, wanted: int) -> int:
        """Images per training step: `wanted` or `batch_size`, whichever is less; at least 2, for batch norm."""
        return max(2, min(wanted, self.batch_size))


class SplitModel(nn.Module):
    """A backbone cut in two at a named module: `server_tail(client_head(x))` equals the unsplit model.

    Args:
        client_head: images (N,3,H,W) in [0,1] -> smashed data; normalisation is inside.
        server_tail: smashed data -> logits (N, classes).
        split_point: the module of the backbone whose output leaves the client.
        image_shape: (3, H, W) of the images the backbone takes.
        classes: number of logits.
        packed: where several feature tensors are released as one, their shapes: rows of an image (1, or the number of
            its windows), then the rest. Empty for a single tensor.
    """

    def __init__(
        self,
        client_head: nn.Module,
        server_tail: nn.Module,
        *,
        split_point: str,
        image_shape: tuple[int, int, int],
        classes: int,
        packed: tuple[tuple[int, ...], ...] = (),
    ) -> None:
        super().__init__()
        self.client_head = client_head
        self.server_tail = server_tail
        self.split_point = split_point
        self.image_shape = image_shape
        self.classes = classes
        self.packed = packed

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,3,H,W) in [0,1] -> logits (N, classes)."""
        logits: Tensor = self.server_tail(self.client_head(images))
        return logits


@dataclass(frozen=True)
class AdditiveNoise:
    """Noise that a release adds to every value of `ProtectedModel.location`, independently.

    Attributes:
        distribution: gaussian or laplace.
        scale: standard deviation of gaussian, b of laplace noise, in the units of the released features.
        clip_norm: the L2 norm that `location` never exceeds, if the defense clips it.
    """

    distribution: Literal["gaussian", "laplace"]
    scale: float
    clip_norm: float | None = None


class ProtectedModel(nn.Module):
    """A split model whose released features went through a defense.

    Most defenses only override `transform`. One that fine-tunes head or tail does so in `Defense.fit`; one that
    acts on pixels overrides `release`. Everything that `Defense.fit` learns must be a parameter or a buffer:
    the fitted state is cached as this module's `state_dict`.
    """

    def __init__(self, split: SplitModel) -> None:
        super().__init__()
        self.split = split

    def features(self, images: Tensor) -> Tensor:
        """The smashed data before the defense: (N,3,H,W) in [0,1] -> features of any shape (N, ...)."""
        smashed: Tensor = self.split.client_head(images)
        return smashed

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """What the defense does to the features; same shape, dtype and device as it was given.

        It may return integers instead (bool, or of 8 to 64 bits); `predict` then receives just these.
        """
        return features

    def release(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Client side: images (N,3,H,W) in [0,1] -> released features (N, ...)."""
        return self.transform(self.features(images), generator=generator)

    def quantisation(self) -> tuple[float, float]:
        """`(scale, zero_point)`: a released integer q means scale * (q - zero_point), which is what attackers read.

        Means something where `release` gives integers; whatever `fit` learns of it belongs in buffers.
        """
        return 1.0, 0.0

    def location(self, images: Tensor) -> Tensor:
        """What the release is without its noise, differentiable; means something where `noise` is not None."""
        return self.features(images)

    def noise(self) -> AdditiveNoise | None:
        """The noise that is added to `location`; None where the release is anything else. Guarantees rest on it."""
        return None

    def predict(self, released: Tensor) -> Tensor:
        """Server side: released features, as they were sent -> logits (N, classes)."""
        if not released.is_floating_point():
            scale, zero_point = self.quantisation()
            released = (released.float() - zero_point) * scale
        logits: Tensor = self.split.server_tail(released)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Images -> logits through the defense."""
        return self.predict(self.release(images))


class Plugin(Parameters):
    """What attacks and defenses have in common: a name, an integer version, parameters that are checked.

    Fields of a subclass are its parameters; give each a default and its range with `pydantic.Field`. Raise
    `version` whenever the figures change: it is part of a cell's identity.
    """

    model_config = ConfigDict(validate_default=True)  # a file that is the default is looked for too

    name: ClassVar[str]
    version: ClassVar[int] = 1
    paper: ClassVar[str] = ""

    def assert_at_hand(self) -> None:
        """Override where something outside dpbench is needed, such as weights; asked when a run is planned.

        Raises:
            DpbenchError: it is not on this machine; says how to get it.
        """
        return None


class Defense(Plugin, abc.ABC):
    """A way to release features that should keep the task and hide the image."""

    trained_on: ClassVar[tuple[str, ...]] = ()
    """Metrics (such as `ssim`) that `fit` optimises against: never the only one that judges this defense."""

    @abc.abstractmethod
    def build(self, split: SplitModel) -> ProtectedModel:
        """The protected model, not yet fitted. Must not touch data or draw random numbers that matter."""

    def fit(
        self,
        model: ProtectedModel,
        private: LabelledImages,
        *,
        generator: torch.Generator,
        progress: Callable[[str], None],
    ) -> None:
        """Calibrate or train `model` in place on the defender's private images (default: nothing to fit).

        Args:
            model: what `build` returned, on its device, in eval mode.
            private: the defender's training images, on the same device.
            generator: the only source of randomness, on the same device.
            progress: shows a short text such as "epoch 2/5" in the live display.
        """
        return None


class Client(Protocol):
    """The client as the attacker holds it in white-box threat models: differentiable, eval mode, frozen."""

    def release(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Images -> released features, with gradients."""

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

    Attributes:
        released: (N, ...) released features of the N victims, of the floating type in which they left the client.
        again: further releases of the same victims, each (N, ...), where the suite grants more than one.
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
    """

    released: Tensor
    image_shape: tuple[int, int, int]
    auxiliary: LabelledImages
    query: Callable[[Tensor], Tensor] | None
    client: Client | None
    remember: Remember
    again: tuple[Tensor, ...] = ()
    server: Server | None = None
    adaptive: bool = True
    undefended: Client | None = None
    found: Mapping[str, Tensor] = field(default_factory=dict)
    progress: Callable[[str], None] = lambda text: None
    notes: dict[str, object] = field(default_factory=dict)

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
    """A way to get images back from released features."""

    needs: ClassVar[Needs] = "nothing"
    floor: ClassVar[bool] = False
    """True for guesses that reconstruct nothing, at most look something up: they set the floor of the scale."""
    combines: ClassVar[bool] = False
    """True where `Observation.found` is read: such an attack runs after the others of its setting."""
    budgets: ClassVar[dict[str, dict[str, float]]] = {}
    """`small` or `large` -> parameter -> factor on its value at `standard`."""

    def at_budget(self, budget: Budget) -> Self:
        """The same attack with its parameters scaled; whole numbers stay whole, and at least 1."""
        changes: dict[str, float] = {}
        for name, factor in self.budgets.get(budget, {}).items():
            value = getattr(self, name)
            changes[name] = max(1, round(value * factor)) if isinstance(value, int) else value * factor
        return type(self)(**(self.model_dump() | changes))

    @abc.abstractmethod
    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """One image per victim, (N,3,H,W) in [0,1], in the order of `seen.released`."""
