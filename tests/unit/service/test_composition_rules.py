"""Which defenses cannot follow each other, and what a protocol reads from parameters that go by another name there."""

import pytest

from dpbench.contract.spec import PluginSpec
from dpbench.errors import DpbenchError
from dpbench.plugins.configuring import configure
from dpbench.plugins.registry import find_defense
from dpbench.suite.grid import assert_belongs


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mix + gaussian", "'mix' averages what was released of several images; put it last"),
        ("mix + mix", "put it last"),
        ("waist + mix", "'waist' of 'inference' and 'mix' of 'sharing'"),
        ("gaussian + none", "'none' does nothing"),
        ("none + none", "'none' does nothing"),
    ],
)
def test_what_means_nothing_in_a_row_is_refused(name, said):
    with pytest.raises(DpbenchError, match=said):
        find_defense(name)


def test_all_are_fitted_on_the_same_images():
    cls = find_defense("resynthesis + resynthesis")
    with pytest.raises(DpbenchError, match="fitted on the same images"):
        configure(cls, {"resynthesis1_fit_on": "public"})
    both = configure(cls, {"resynthesis1_fit_on": "public", "resynthesis2_fit_on": "public"})
    spec = PluginSpec(name=cls.name, arguments=both.model_dump(mode="json"))
    assert spec.fits_on_public
    with pytest.raises(DpbenchError, match="no public images"):
        assert_belongs(spec, cls, "inference")


@pytest.mark.parametrize(
    ("name", "arguments", "mixed", "attacked"),
    [
        ("gaussian", {"std": 1.0}, 1, False),
        ("mix", {"images_per_release": 3}, 3, False),
        ("gaussian + mix", {"std": 1.0, "images_per_release": 3}, 3, False),
        ("resynthesis", {"form": "code"}, 1, True),
        ("resynthesis + logits-only", {"resynthesis_form": "code", "logits_only_form": "label"}, 1, True),
        ("logits-only", {"form": "label"}, 1, False),
        ("mine.py:Mine", {"wave_form": "code"}, 1, False),
    ],
)
def test_a_protocol_finds_the_parameters_that_it_knows(name, arguments, mixed, attacked):
    spec = PluginSpec(name=name, arguments=arguments)
    assert (spec.mixed_images, spec.only_attacked) == (mixed, attacked)
