"""Every data set that draws its images keeps the contract, and the checks find each rule broken."""

from typing import ClassVar

import numpy as np
import pytest

from dpbench.contract.dataset import ImageSet
from dpbench.data.datasets import BUILT_IN
from dpbench.errors import DpbenchError
from dpbench.plugins.registry import image_sets
from dpbench.testing import ContractError, check_dataset, checks_for

CHECKS = [check for cls in image_sets().values() for check in checks_for(cls)]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.who} {check.__name__}")
def test_every_data_set_keeps_the_contract(check):
    check()


def test_dpbench_s_own_are_registered_as_any_other():
    assert {name: image_sets()[name] for name in BUILT_IN} == BUILT_IN


class Noise(ImageSet):
    """Noise: the class is whether it is bright."""

    name: ClassVar[str] = "noise"
    classes: ClassVar[tuple[str, ...]] = ("dark", "bright")

    def draw(self, part, indices, *, size, seed):
        images = np.empty((len(indices), 3, size, size), np.uint8)
        for image, index in zip(images, indices, strict=True):
            generator = np.random.default_rng([seed, len(part), index])
            image[:] = generator.integers(0, 128, image.shape) + 127 * (index % 2)
        return images, np.array(indices) % 2


def test_a_fine_one_passes():
    check_dataset(Noise)


def changed(change):
    def draw(self, part, indices, *, size, seed):
        images, labels = Noise.draw(self, part, indices, size=size, seed=seed)
        return change(images, labels)

    return {"draw": draw}


def parts_alike(self, part, indices, *, size, seed):
    return Noise.draw(self, "test", indices, size=size, seed=seed)


def global_state(self, part, indices, *, size, seed):
    images = np.random.randint(0, 256, (len(indices), 3, size, size)).astype(np.uint8)  # noqa: NPY002
    return images, np.array(indices) % 2


def by_the_batch(self, part, indices, *, size, seed):
    generator = np.random.default_rng([seed, len(part)])
    return generator.integers(0, 256, (len(indices), 3, size, size), np.uint8), np.array(indices) % 2


BROKEN = {
    "no docstring": ({"__doc__": None}, "has no docstring"),
    "one class": ({"classes": ("dark",)}, "at least two different names"),
    "a class twice": ({"classes": ("dark", "dark")}, "at least two different names"),
    "classes in one word": ({"classes": "dark"}, "at least two different names"),
    "floats": (changed(lambda images, labels: (images / 255, labels)), "of float64; expected"),
    "channels last": (changed(lambda images, labels: (images.transpose(0, 2, 3, 1), labels)), "expected"),
    "too few": (changed(lambda images, labels: (images[:1], labels[:1])), r"\(1, 3, 16, 16\)"),
    "labels as floats": (changed(lambda images, labels: (images, labels / 2)), "whole numbers"),
    "a label too many": (changed(lambda images, labels: (images, labels + 1)), "the label 2; expected 0 to 1"),
    "a negative label": (changed(lambda images, labels: (images, labels - 1)), "the label -1; expected 0 to 1"),
    "no labels": (changed(lambda images, labels: images), "expected a pair"),
    "one label for all": (changed(lambda images, labels: (images, labels * 0)), "all have the label 0"),
    "parts alike": ({"draw": parts_alike}, "are auxiliary images too"),
    "global state": ({"draw": global_state}, "others when they are drawn alone|other images the second time"),
    "by the batch": ({"draw": by_the_batch}, "others when they are drawn alone"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_rule_is_found_in_a_line(what):
    changes, message = BROKEN[what]
    broken = type("Broken", (Noise,), {"__doc__": "Broken.", "name": "noise", **changes})
    with pytest.raises(ContractError, match=message) as found:
        check_dataset(broken)
    assert "\n" not in str(found.value)


def test_what_is_no_data_set_is_refused():
    with pytest.raises(DpbenchError, match="not a subclass of"):
        check_dataset(dict)  # type: ignore[arg-type]
