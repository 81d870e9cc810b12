"""A defense that can be built at none of its places is refused before anything is fitted."""

import pytest
import torch

from dpbench.contract.spec import PluginSpec
from dpbench.errors import DpbenchError
from dpbench.models.spec import BackboneSpec
from dpbench.plugins import applicable
from dpbench.plugins.applicable import Place, assert_applicable

RESNET = Place(BackboneSpec(name="resnet10t"), "layer1", 32)
DEEP = RESNET._replace(split_point="layer3")
TOKENS = Place(BackboneSpec(name="vit_tiny_patch16_224", args={"patch_size": 4, "depth": 3}), "blocks.0", 32)


def spec(name, **arguments):
    return PluginSpec(name=name, arguments=arguments)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            spec("resynthesis", stage="layer9"),
            "resynthesis: stage 'layer9' is not behind the split point 'layer1'; did",
        ),
        (
            spec("resynthesis", stage=7),
            "resynthesis: stage '7' is not behind the split point 'layer1'; stages there: 1",
        ),
        (spec("dpm", match=["blocks.1"]), "dpm: stage 'blocks.1' is not behind"),
        (spec("gaussian + dpm", std=0.5, match=["stem"]), "dpm: stage 'stem' is not behind"),
    ],
)
def test_what_fits_nowhere_is_refused_in_the_words_of_the_defense(setting, words):
    with pytest.raises(DpbenchError, match=words):
        assert_applicable([(setting, RESNET), (setting, DEEP)])


def test_what_fits_somewhere_is_left_to_its_cells():
    layer3 = spec("resynthesis", stage="layer3")
    assert_applicable([(layer3, DEEP), (layer3, TOKENS), (layer3, RESNET)])
    with pytest.raises(DpbenchError, match="behind the split point 'layer3'"):
        assert_applicable([(layer3, DEEP), (layer3, TOKENS)])


def test_each_setting_is_built_once_where_it_fits(monkeypatch):
    made = []
    halves = applicable._halves
    monkeypatch.setattr(applicable, "_halves", lambda place: made.append(place) or halves(place))
    settings = [spec("gaussian", std=0.5), spec("blur"), spec("dpm")]
    assert_applicable([(setting, place) for place in (RESNET, DEEP) for setting in settings])
    assert made == [RESNET]


def test_nothing_is_made_for_an_undefended_network_or_a_large_one(monkeypatch):
    made = []
    monkeypatch.setattr(applicable.splitting, "split_model", lambda *given, **named: made.append(given))
    assert_applicable([(spec("none"), RESNET)])
    monkeypatch.setattr(applicable, "LARGEST", 1_000_000)
    assert_applicable([(spec("resynthesis", stage="layer9"), RESNET)])
    assert made == []


def test_asking_draws_no_random_number():
    before = torch.get_rng_state()
    assert_applicable([(spec("rotate"), RESNET)])
    assert torch.equal(before, torch.get_rng_state())
