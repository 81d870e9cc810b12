"""Everyone's images, the public network and each entity's own defense: `Prepared`, of several owners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dpbench.cells.prepare import Judge, Prepared, Progress
from dpbench.contract.images import LabelledImages
from dpbench.contract.spec import PluginSpec
from dpbench.data.datasets import Parts
from dpbench.errors import DpbenchError
from dpbench.machine.cache import State
from dpbench.machine.randomness import derive_seed
from dpbench.protocols.sharing.suite import Owner
from dpbench.protocols.sharing.units import EntityCell, WorldSpec
from dpbench.suite.cell import CellSpec
from dpbench.text.hashing import content_hash


@dataclass(frozen=True)
class Divided:
    """All images, and the places of each entity's among the private ones, int64 on the device."""

    parts: Parts
    places: dict[str, torch.Tensor]


class World(Prepared):
    """Makes what units share. What the base class calls a cell's private images are the owner's.

    The public images (`auxiliary` in `[dataset]`) fit the public network and the judge. Each entity fits its defenses
    on its own images, with randomness of its own.
    """

    spec: WorldSpec

    def enter(self, spec: WorldSpec) -> None:
        """Prepare for the units of a world: images of another division or seed are forgotten."""
        self.spec = spec

    def divided(self, progress: Progress) -> Divided:
        """All images, on the device, and the places of each entity's among the private ones."""
        dataset = self.spec.dataset

        def load() -> Parts:
            progress("loading images")
            return self._all_placed(self._load(dataset, self.spec.data_fingerprint, progress))

        parts: Parts = self.keep("everything", self.spec.data_fingerprint, load)

        def divide() -> dict[str, torch.Tensor]:
            labels = parts.private.labels.cpu().numpy()
            owned = divide_among(self.spec.owners, labels, seed=self.spec.seed)
            return {name: torch.from_numpy(places).to(self.device) for name, places in owned.items()}

        return Divided(parts, self.keep("division", content_hash(self.spec.identity), divide))

    def images_of(self, owner: str, progress: Progress) -> LabelledImages:
        """An entity's private images."""
        divided = self.divided(progress)
        places = divided.places[owner]
        private = divided.parts.private
        return LabelledImages(private.images[places], private.labels[places])

    def test(self, progress: Progress) -> LabelledImages:
        """The images on which every accuracy is measured."""
        return self.divided(progress).parts.test

    def public_cell(self) -> EntityCell:
        """A cell of the public network on nobody's private images: undefended, not attacked."""
        return self.spec.cell()

    def parts(self, cell: CellSpec, progress: Progress) -> Parts:
        """For the pipeline: the owner's images are the private ones and, as they were shared, those under attack."""
        assert isinstance(cell, EntityCell)

        def make() -> Parts:
            everything = self.divided(progress).parts
            if not cell.owner:  # the public network and the judge learn from public images
                hashes = {"private": everything.hashes["auxiliary"], "test": everything.hashes["test"]}
                return Parts(
                    private=everything.auxiliary,
                    auxiliary=everything.auxiliary,
                    test=everything.test,
                    classes=everything.classes,
                    hashes=hashes,
                )
            shared = self.images_of(cell.owner, progress)
            hashes = {name: self._hashes(cell.owner, progress) for name in ("private", "test")}
            return Parts(
                private=shared,
                auxiliary=self._attackers(cell, progress),
                test=shared,
                classes=everything.classes,
                hashes=hashes,
            )

        parts: Parts = self.keep(f"parts {bool(cell.owner)}", cell.data_fingerprint, make)
        return parts

    def auxiliary(self, cell: CellSpec, progress: Progress) -> LabelledImages:
        """The attacker's images: all it has, whatever its budget."""
        return self.parts(cell, progress).auxiliary

    def _attackers(self, cell: EntityCell, progress: Progress) -> LabelledImages:
        public = self.divided(progress).parts.auxiliary
        if not cell.attacker:
            return public
        own = self.images_of(cell.attacker, progress)
        if not self.spec.public_images:
            return own
        images = torch.cat([own.images[:], public.images[:]]).contiguous(memory_format=torch.channels_last)
        return LabelledImages(images, torch.cat([own.labels, public.labels]))

    def _hashes(self, owner: str, progress: Progress) -> list[str]:
        divided = self.divided(progress)
        return [divided.parts.hashes["private"][place] for place in divided.places[owner].tolist()]

    def _fitted_on(self, cell: CellSpec, defense: PluginSpec, progress: Progress) -> LabelledImages:
        """The owner's images, or the public ones where a defense asks for those."""
        return self.divided(progress).parts.auxiliary if defense.fits_on_public else self.parts(cell, progress).private

    def backbone(self, cell: CellSpec, progress: Progress) -> tuple[str, State, str]:
        """The public network: the same for every cell of this world."""
        return super().backbone(self.public_cell(), progress)

    def judge(self, cell: CellSpec, progress: Progress) -> Judge:
        """The judge, fitted on the public images: the same for every cell of this world."""
        return super().judge(self.public_cell(), progress)

    def _about_protected(self, cell: CellSpec, defense: PluginSpec, progress: Progress) -> dict[str, Any]:
        assert isinstance(cell, EntityCell)
        about = super()._about_protected(cell, defense, progress)
        return {**about, "owner": cell.owner_fingerprint, "fit": cell.fit}


Places = NDArray[np.int64]


def divide_among(entities: Sequence[Owner], labels: Places, *, seed: int) -> dict[str, Places]:
    """Entity -> places of its images among the private ones; no image has two owners.

    An entity without `alpha` gets the classes in the proportions of the data; with it, in proportions drawn from
    Dirichlet(alpha): the smaller, the fewer classes it has. Where a class runs out, others fill up.

    Args:
        entities: in the order in which they are served.
        labels: (N,) class of each private image.
        seed: draws images and proportions.

    Raises:
        DpbenchError: an entity would go without images.
    """
    generator = np.random.default_rng(derive_seed("division", seed))
    classes, counted = np.unique(labels, return_counts=True)
    pools = {int(label): list(generator.permutation(np.flatnonzero(labels == label))) for label in classes}
    owned = {}
    for entity in entities:
        left = np.array([len(pools[int(label)]) for label in classes])
        if entity.images > left.sum() or not entity.images:
            raise DpbenchError(
                f"entity {entity.name!r} wants {entity.images} private images, {left.sum()} are left; expected 1 or "
                "more, and no more than there are: change its images, or dataset.private"
            )
        shares = counted / counted.sum()
        if entity.alpha is not None:
            shares = generator.dirichlet(np.full(len(classes), entity.alpha))
        counts = _whole(shares, entity.images, left)
        taken = [pools[int(label)].pop() for label, count in zip(classes, counts, strict=True) for _ in range(count)]
        owned[entity.name] = generator.permutation(np.array(taken, dtype=np.int64))
    return owned


def _whole(shares: NDArray[np.float64], total: int, most: Places) -> Places:
    """Whole numbers (K,) near `total * shares`, at most `most` each, that add up to `total`."""
    counts = np.minimum(np.floor(shares * total).astype(np.int64), most)
    while counts.sum() < total:
        wanting = np.where(counts < most, shares * total - counts, -np.inf)
        counts[int(wanting.argmax())] += 1
    return counts
