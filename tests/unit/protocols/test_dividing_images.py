"""Images divided among entities: no image twice, and as skewed as asked for."""

import numpy as np
import pytest

from dpbench.errors import DpbenchError
from dpbench.protocols.sharing.suite import Owner
from dpbench.protocols.sharing.world import divide_among

LABELS = np.repeat(np.arange(10), 100)


def divided(*owners, seed=0, labels=LABELS):
    return divide_among(owners, labels, seed=seed)


def owner(name, images, alpha=None):
    return Owner(name=name, images=images, alpha=alpha)


def counts(places, labels=LABELS):
    return np.bincount(labels[places], minlength=10)


def test_no_image_has_two_owners_and_everyone_gets_as_many_as_asked():
    owned = divided(owner("a", 130), owner("b", 401, 0.3), owner("c", 469))
    assert {name: len(places) for name, places in owned.items()} == {"a": 130, "b": 401, "c": 469}
    together = np.concatenate(list(owned.values()))
    assert sorted(together) == list(range(1000))  # all of them, each once


def test_a_division_is_drawn_by_its_seed():
    ask = owner("a", 100), owner("b", 100, 1.0)
    first, again, other = divided(*ask), divided(*ask), divided(*ask, seed=1)
    for name in ("a", "b"):
        assert (first[name] == again[name]).all()
        assert set(first[name]) != set(other[name])


def test_without_skew_classes_are_as_frequent_as_in_the_data():
    labels = np.repeat(np.arange(10), [300, 20, 80, 100, 100, 100, 100, 100, 50, 50])
    owned = divided(owner("a", 100), owner("b", 800), labels=labels)
    for places in owned.values():
        assert np.abs(counts(places, labels) / len(places) - np.bincount(labels) / 1000).max() <= 0.01
    assert len(set(labels[owned["a"]][:20])) > 3  # in a random order, not class by class


def test_a_small_alpha_is_skewed_and_a_large_one_is_not():
    assert counts(divided(owner("a", 90, 0.01))["a"]).max() >= 60
    assert counts(divided(owner("a", 90, 1e5))["a"]).max() <= 10
    for alpha in (1e-12, 1e6):
        assert len(divided(owner("a", 500, alpha))["a"]) == 500


def test_where_a_class_runs_out_others_fill_up():
    owned = divided(owner("a", 450, 0.01), owner("b", 550, 0.01))
    assert counts(owned["a"]).max() == 100
    assert (counts(owned["a"]) + counts(owned["b"]) == 100).all()


def test_more_images_than_there_are_is_refused():
    with pytest.raises(DpbenchError, match="entity 'b' wants 500 private images, 400 are left"):
        divided(owner("a", 600), owner("b", 500))
