"""Who has which of the private images: sizes, and class skew (Hsu et al. 2019, by Dirichlet proportions)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dpbench.errors import DpbenchError
from dpbench.randomness import derive_seed
from dpbench.sharing.suite import Owner

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
