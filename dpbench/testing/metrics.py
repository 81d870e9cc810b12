"""What every metric keeps to: one figure for each pair, in the range that it states, better where images are closer."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from dpbench.board.columns import assert_free
from dpbench.contract.metric import Metric, checked_figures
from dpbench.errors import DpbenchError
from dpbench.machine.randomness import derive_generator, seeded
from dpbench.metrics.table import BUILT_IN
from dpbench.testing.rules import expect, is_documented
from dpbench.testing.tiny import CPU, smooth

PAIRS = 4
SIDES = (32, 176)
"""Images are tried at the first side for which there are figures."""

SAME = 1e-3
"""How far a figure may move, of its size or of 1, when its pair is measured alone: sums come in another order."""

LADDER = (0.02, 0.1, 0.4)
"""Standard deviations of noise on a reconstruction, each clearly worse than the one before."""


class CheckedMetric:
    """A metric, and pairs of images that it takes."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._side = 0

    @property
    def side(self) -> int:
        """Of images for which it has figures.

        Raises:
            ContractError: it has none for any side that is tried.
        """
        if not self._side:
            self._side, refused = self._first_side()
            expect(self._side > 0, f"there is no figure for images of {SIDES} pixels: {refused}")
        return self._side

    def _first_side(self) -> tuple[int, str]:
        refused = ""
        for side in SIDES:
            images = smooth(2, seed="side", shape=(3, side, side))
            try:
                self.metric.measure(images, images.flip(0))
            except DpbenchError as error:
                refused = str(error)
                continue
            return side, ""
        return 0, refused

    def pictures(self, seed: str, count: int = PAIRS) -> Tensor:
        """(count,3,S,S) in [0,1]."""
        return smooth(count, seed=seed, shape=(3, self.side, self.side))

    def measured(self, images: Tensor, victims: Tensor) -> Tensor:
        """The figures, checked."""
        with torch.no_grad():
            found = self.metric.measure(images, victims)
        return torch.tensor(checked_figures(found, len(images), self.metric.facts()), dtype=torch.float64)


def documented(checked: CheckedMetric) -> None:
    """The class has a docstring, and every parameter a description: `dpbench list` shows them."""
    is_documented(type(checked.metric))


def says_how_it_is_read(checked: CheckedMetric) -> None:
    """Its name can head a column, and its direction, range, decimals and tolerance are such."""
    facts = checked.metric.facts()
    if BUILT_IN.get(facts.name) is not type(checked.metric):
        assert_free([facts])


def one_figure_for_each_pair(checked: CheckedMetric) -> None:
    """Any pairs of images in [0,1] have one finite figure each, within the range that is stated."""
    plain = torch.zeros(PAIRS, 3, checked.side, checked.side)
    images, victims = checked.pictures("images"), checked.pictures("victims")
    for one, other in ((images, victims), (images, images), (plain, victims), (plain, plain), (plain, plain + 1)):
        checked.measured(one.clone(), other.clone())
        checked.measured(one[:1].clone(), other[:1].clone())


def a_figure_belongs_to_its_pair(checked: CheckedMetric) -> None:
    """The figure of a pair does not depend on the other pairs of the batch."""
    images, victims = checked.pictures("images"), checked.pictures("victims")
    together = checked.measured(images.clone(), victims.clone())
    for place in range(PAIRS):
        alone = checked.measured(images[place : place + 1].clone(), victims[place : place + 1].clone())[0]
        expect(
            abs(float(alone - together[place])) <= SAME * max(1.0, abs(float(alone))),
            f"a pair has {float(together[place]):.6g} among {PAIRS} and {float(alone):.6g} alone; "
            "reduce over the dimensions of the image, never over the batch",
        )


def the_same_again(checked: CheckedMetric) -> None:
    """The same pairs have the same figures, whatever the global generators say."""
    images, victims = checked.pictures("images"), checked.pictures("victims")
    found = []
    for seed in (1, 2):
        with seeded(seed, CPU):
            found.append(checked.measured(images.clone(), victims.clone()))
    expect(torch.equal(*found), "the same pairs have other figures the second time; draw nothing, or from a fixed seed")


def images_stay_as_they_are(checked: CheckedMetric) -> None:
    """What it is given is not changed."""
    images, victims = checked.pictures("images"), checked.pictures("victims")
    given = images.clone(), victims.clone()
    checked.measured(*given)
    expect(
        torch.equal(given[0], images) and torch.equal(given[1], victims),
        "it changes the images that it is given; work on a copy",
    )


def closer_images_have_better_figures(checked: CheckedMetric) -> None:
    """The more noise on a reconstruction, the worse its figure, in the direction that `closer` names."""
    victims = checked.pictures("victims")
    noise = torch.randn(victims.shape, generator=derive_generator(CPU, "ladder"))
    ladder = [victims, *((victims + std * noise).clamp(0, 1) for std in LADDER)]
    means = [float(checked.measured(images, victims.clone()).mean()) for images in ladder]
    sign = 1 if checked.metric.closer == "higher" else -1
    falls = all(sign * better > sign * worse for better, worse in itertools.pairwise(means))
    expect(
        falls,
        f"its means are {', '.join(f'{mean:.4g}' for mean in means)} without noise and with std "
        f"{', '.join(map(str, LADDER))}, though closer = {checked.metric.closer!r}; turn the direction, or the figure",
    )


RULES: tuple[Callable[[CheckedMetric], None], ...] = (
    documented,
    says_how_it_is_read,
    one_figure_for_each_pair,
    a_figure_belongs_to_its_pair,
    the_same_again,
    images_stay_as_they_are,
    closer_images_have_better_figures,
)
"""In this order."""
