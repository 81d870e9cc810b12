"""One attack on what was shared: the pipeline of any cell, with the features and the knowledge of this protocol."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dpbench.contract.defense import ProtectedModel
from dpbench.contract.spec import PluginSpec
from dpbench.metrics.guarantees import Guarantees
from dpbench.metrics.linkage import Link
from dpbench.protocols.sharing.units import EntityCell
from dpbench.protocols.sharing.world import World
from dpbench.running.pipeline import Pipeline, Released
from dpbench.running.prepare import Progress, undefended_spec
from dpbench.service.costs import ClientCost, Work
from dpbench.service.quantisation import understood
from dpbench.service.release import Release
from dpbench.suite.cell import CellSpec
from dpbench.text.hashing import content_hash


class SharedPipeline(Pipeline):
    """Attacks the very tensors that the receiver trains on.

    Args:
        device: where every tensor lives.
        cache_dir: fitted networks and decoded images.
        batch_size: at most so many images in a network at once; None: `auto_batch_size`.
        audit: every plug-in runs behind the border, dpbench's own too.
    """

    def __init__(
        self, device: torch.device, cache_dir: Path, batch_size: int | None = None, *, audit: bool = False
    ) -> None:
        super().__init__(device, cache_dir, batch_size, audit=audit)
        self.world = World(device, cache_dir, batch_size, audit=audit)
        self.prepared = self.world

    def shared(self, sender: str, defense: PluginSpec, progress: Progress) -> tuple[Tensor, Tensor]:
        """What a sender shares: features (N, ...) of all its images, released once, and their labels (N,).

        Whoever receives them, and whatever is done with them, they are the same numbers.
        """
        images = self.world.images_of(sender, progress)
        cell = self.world.spec.cell(sender, defense=defense, victims=len(images))
        protected = self.world.protected(cell, defense, progress)
        return self.released(cell, protected, progress).release.features[0], images.labels

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
        return model, self.world.protected_key(cell, defense, progress)

    def _fits(self, cell: EntityCell, fits: list[int], progress: Progress) -> tuple[ProtectedModel, str]:
        """One fit of the owner's defense, or several that answer in turn at random."""
        cells = [cell.model_copy(update={"fit": fit}) for fit in fits]
        known = [self._client(one, cell.defense, progress, apart=True) for one in cells]
        if len(known) == 1:
            return known[0]
        return Several([model for model, _ in known]), content_hash(["several", *(key for _, key in known)])

    def _guarantees(
        self, cell: CellSpec, protected: ProtectedModel, victims: Tensor, progress: Progress
    ) -> tuple[Guarantees | None, str]:
        return None, ""  # bounds are about one release to a server; boards of this protocol have no column for them

    def _cost(
        self, cell: CellSpec, protected: ProtectedModel, release: Release, progress: Progress
    ) -> tuple[Work | None, ClientCost | None, str]:
        return None, None, ""  # features are shared once, not sent for every answer

    def _link(self, cell: CellSpec, released: Released, progress: Progress) -> Link | None:
        return None  # who receives features for training is not asked whose they are


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
