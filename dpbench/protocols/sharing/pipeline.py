"""One attack on what was shared: the pipeline of any cell, with the features and the knowledge of this protocol."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dpbench.cells.exposure import Exposure
from dpbench.cells.pipeline import Pipeline
from dpbench.cells.prepare import Prepared, Progress, undefended_spec
from dpbench.cells.result import Released
from dpbench.contract.defense import ProtectedModel
from dpbench.contract.images import LabelledImages
from dpbench.contract.spec import PluginSpec
from dpbench.errors import DpbenchError
from dpbench.machine.randomness import derive_generator
from dpbench.metrics.guarantees import Guarantees
from dpbench.metrics.linkage import Link
from dpbench.plugins.apart import remote
from dpbench.plugins.configuring import defense_of
from dpbench.protocols.sharing.units import EntityCell, OnShared, Training, Unit
from dpbench.protocols.sharing.world import World
from dpbench.service.quantisation import understood
from dpbench.service.release import Release, release_bits
from dpbench.suite.cell import CellSpec
from dpbench.text.hashing import content_hash

LARGEST_BANK = 2048
"""Images of an attacker whose features it mixes with others."""

BANK_BATCH = 64


class SharedExposure(Exposure):
    """Figures of what is shared for training, whatever the attack."""

    def guarantees(
        self, cell: CellSpec, protected: ProtectedModel, victims: Tensor, progress: Progress
    ) -> tuple[Guarantees | None, str]:
        """None: bounds are about one release to a server; boards of this protocol have no column for them."""
        return None, ""

    def link(self, cell: CellSpec, released: Released, progress: Progress) -> Link | None:
        """As of any cell, by who knows the sender's client or the public one: another fit releases something else."""
        assert isinstance(cell, EntityCell)
        if cell.knowledge == "own" or cell.prepared_on is not None:
            return None
        return super().link(cell, released, progress)


class SharedPipeline(Pipeline):
    """Attacks the very tensors that the receiver trains on; made as any pipeline."""

    prepared_by: ClassVar[type[Prepared]] = World
    exposed_by: ClassVar[type[Exposure]] = SharedExposure

    @property
    def world(self) -> World:
        """Images, networks and defended models of all entities."""
        assert isinstance(self.prepared, World)
        return self.prepared

    def plugins_apart(self, unit: Unit) -> list[Literal["defense", "attack"]]:
        """Which plug-ins of a unit run in processes of their own; of a training's defenses, whether all do."""
        if isinstance(unit, OnShared):
            return self.apart(unit.cell())
        applied = list(unit.applied.values()) if isinstance(unit, Training) else []
        defenses = map(defense_of, applied or [undefended_spec()])
        return ["defense"] if all(remote.crosses(one, self.prepared.audit) for one in defenses) else []

    def shared(self, sender: str, defense: PluginSpec, progress: Progress) -> tuple[Tensor, Tensor]:
        """What a sender shares: features (N, ...) of all its images, released once, and their labels (N,).

        Whoever receives them, and whatever is done with them, they are the same numbers.
        """
        images = self.world.images_of(sender, progress)
        cell = self.world.spec.cell(sender, defense=defense, victims=len(images))
        protected = self.world.protected(cell, defense, progress)
        return self.released(cell, protected, progress).release.features[0], images.labels

    def released(self, cell: CellSpec, protected: ProtectedModel, progress: Progress) -> Released:
        """As of any cell; where a defense averages images of a class, each is given the mean of its group."""
        together = cell.defense.mixed_images
        if together == 1:
            return super().released(cell, protected, progress)
        images = self.world.parts(cell, progress).test
        key = self.world.protected_key(cell, cell.defense, progress)

        def make() -> Released:
            every = cell.model_copy(update={"victims": len(images)})
            found = super(SharedPipeline, self).released(every, protected, progress)
            groups = groups_of(images.labels, together, derive_generator(self.device, key, "mix"))
            return replace(found, release=mixed_release(found.release, groups, together))

        mixed: Released = self.world.keep("mixed", f"{key} {cell.releases}", make)
        return mixed

    def _known_client(self, cell: CellSpec, progress: Progress) -> tuple[ProtectedModel, str]:
        """The client that the attacker prepares on, and its key."""
        assert isinstance(cell, EntityCell)
        if cell.prepared_on is not None:
            return self._fits(cell, cell.prepared_on, progress)
        if cell.knowledge in ("query", "weights"):
            return self._client(cell, cell.defense, progress)
        if cell.knowledge == "own":
            own = self.world.spec.cell(cell.attacker, defense=cell.defense)
            return self._client(own, cell.defense, progress)
        return self._client(cell, undefended_spec(), progress)

    def _client(
        self, cell: CellSpec, defense: PluginSpec, progress: Progress, *, apart: bool = False
    ) -> tuple[ProtectedModel, str]:
        model = self.world.protected(cell, defense, progress, apart=apart)
        key = self.world.protected_key(cell, defense, progress)
        together = defense.mixed_images
        if together == 1:
            return model, key
        known = self.world.auxiliary(cell, progress)
        mixing = Mixing(model, known, together, generator=derive_generator(self.device, key, "bank"))
        return mixing, content_hash(["mixing", key, cell.data_fingerprint])

    def _fits(self, cell: EntityCell, fits: list[int], progress: Progress) -> tuple[ProtectedModel, str]:
        """One fit of the owner's defense, or several that answer in turn at random."""
        cells = [cell.model_copy(update={"fit": fit}) for fit in fits]
        known = [self._client(one, cell.defense, progress, apart=True) for one in cells]
        if len(known) == 1:
            return known[0]
        return Several([model for model, _ in known]), content_hash(["several", *(key for _, key in known)])


def groups_of(labels: Tensor, together: int, generator: torch.Generator) -> list[Tensor]:
    """Places (n,) of images that share a release: `together` of a class, and what is left over in its last group.

    Raises:
        DpbenchError: a class has fewer images.
    """
    groups: list[Tensor] = []
    for label in labels.unique().tolist():
        places = (labels == label).nonzero()[:, 0]
        if len(places) < together:
            raise DpbenchError(
                f"class {label} has {len(places)} images, but {together} of a class are to be shared as one; lower "
                "images_per_release, or give its owner more images"
            )
        drawn = places[torch.randperm(len(places), generator=generator, device=labels.device)]
        starts = list(range(together, len(drawn) - together + 1, together))
        groups += drawn.tensor_split(starts)
    return groups


def mean_of_groups(features: Tensor, groups: list[Tensor]) -> Tensor:
    """Features (N, ...) -> the same shape, each row the mean of its group."""
    means = features.clone()
    for places in groups:
        means[places] = features[places].mean(0)
    return means


def mixed_release(release: Release, groups: list[Tensor], together: int) -> Release:
    """What is sent where each group sends the mean of its features: fewer releases, of values with more levels."""
    means = tuple(mean_of_groups(features.float(), groups) for features in release.features)
    sent = means[0][torch.stack([places[0] for places in groups])]
    bits = math.ceil(release_bits(sent) / together)
    return replace(release, features=means, dtype=means[0].dtype, bits=bits, images=together)


class Mixing(ProtectedModel):
    """What an attacker makes of a client that shares means: mixes of its own, for each image anew.

    An image is averaged with others that the attacker has, of the class that the public network reads from it: the
    attacker's decoders learn from such means, and its searches see through them.

    Args:
        model: the client, frozen, in eval mode.
        known: the attacker's images.
        together: how many images are averaged.
        generator: of what the client releases of them.
    """

    labels: Tensor
    bank: Tensor

    def __init__(
        self, model: ProtectedModel, known: LabelledImages, together: int, *, generator: torch.Generator
    ) -> None:
        super().__init__(model.split)
        self.model = model
        self.together = together
        some = known.images[:LARGEST_BANK]
        with torch.no_grad():
            parts = [model.release(part, generator=generator) for part in some.split(BANK_BATCH)]
            released = [understood(model, part).float() for part in parts]
        self.register_buffer("bank", torch.cat(released))
        self.register_buffer("labels", known.labels[: len(some)])

    def release(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Images (N,3,H,W) in [0,1] -> means of features (N, ...)."""
        released = understood(self.model, self.model.release(images, generator=generator)).float()
        classes = self.model.split.server_tail(released.detach()).argmax(1)
        total = released
        for _ in range(self.together - 1):
            drawn = torch.rand(len(images), len(self.labels), generator=generator, device=images.device)
            alike = classes[:, None] == self.labels[None]
            total = total + self.bank[(drawn + alike).argmax(1)]  # of another class where there is none of this
        return total / self.together


class Several(ProtectedModel):
    """Clients that answer in turn: each image is released by one of them, at random.

    Args:
        models: of the same backbone and split point, frozen, in eval mode.
    """

    def __init__(self, models: list[ProtectedModel]) -> None:
        super().__init__(models[0].split)
        self.fits = models

    def release(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Images (N,3,H,W) in [0,1] -> released features (N, ...), of integers what they mean."""
        chosen = torch.randint(len(self.fits), (len(images),), generator=generator, device=images.device)
        released: Tensor | None = None
        for number, model in enumerate(self.fits):
            places = (chosen == number).nonzero()[:, 0]
            if len(places):
                part = understood(model, model.release(images[places], generator=generator))
                released = part.new_empty(len(images), *part.shape[1:]) if released is None else released
                released[places] = part
        assert released is not None
        return released
