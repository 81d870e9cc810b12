"""One contract for every registered defense."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from split_networks import (
    ADDITIVE,
    NAMES,
    SPLITS,
    STOCHASTIC,
    TUNED,
    assert_same_state,
    conv_split,
    fitted,
    make,
    released,
    state,
)

from dpbench.contract.defense import SplitModel
from dpbench.errors import DpbenchError
from dpbench.plugins.configuring import configure
from dpbench.plugins.registry import defenses
from dpbench.testing import Check, checks_for

OUT_OF_RANGE: dict[str, dict[str, Any]] = {
    "gaussian": {"std": -0.1},
    "laplace": {"scale": -1},
    "clipped-gaussian": {"clip": 0},
    "dropout": {"p": 1.0},
    "quantise": {"bits": 9},
    "topk": {"keep": 0},
    "blur": {"sigma": 0},
    "pca": {"keep": 1.1},
    "rotate": {"block": 0},
    "token-shuffle": {"share": 0},
    "token-drop": {"share": 1},
    "logits-only": {"form": "image"},
    "dpm": {"strength": -1},
    "dpm-equivalent": {"strength": -1},
    "resynthesis": {"noise": -0.1},
    "waist": {"values": 0},
    "mix": {"images_per_release": 1},
    "fine-tuned": {"bottleneck": -1},
    "nopeek": {"strength": -1},
    "adversarial": {"objective": "patrole"},
    "vib": {"strength": -1},
    "cem": {"clusters": 0},
    "siamese": {"margin": 0},
    "siftfunnel": {"strength": -1},
    "shredder": {"tensors": 0},
    "cloak": {"largest": 0},
    "disco": {"share": 1.0},
}


@pytest.fixture(params=sorted(SPLITS))
def split(request: pytest.FixtureRequest) -> SplitModel:
    return SPLITS[request.param]()


def contract() -> list[Any]:
    """Every rule of every registered defense."""
    checks = [(name, check) for name in NAMES for check in checks_for(make(name))]
    return [pytest.param(check, id=f"{name}-{check.__name__}") for name, check in checks]


@pytest.mark.parametrize("check", contract())
def test_contract(check: Check) -> None:
    check()


@pytest.mark.parametrize("name", NAMES)
class TestBuiltIn:
    def test_backbone_is_left_as_it_was(self, name: str, split: SplitModel) -> None:
        next(split.server_tail.parameters()).requires_grad_(False)
        before = state(split)
        flags = {key: p.requires_grad for key, p in split.named_parameters()}
        model = fitted(make(name), split)
        if name not in TUNED:
            assert_same_state(before, state(model.split))
        assert flags == {key: p.requires_grad for key, p in model.split.named_parameters()}
        assert all(p.grad is None for p in model.split.parameters())
        assert not model.training
        assert not model.split.training

    def test_is_stochastic_or_not_and_states_its_noise_or_not(self, name: str) -> None:
        model = fitted(make(name), conv_split())
        assert torch.equal(released(model, seed=1), released(model, seed=2)) is (name not in STOCHASTIC)
        noise = model.noise()
        assert (noise.distribution if noise else None) == ADDITIVE.get(name)

    def test_out_of_range_and_unknown_parameters_are_refused(self, name: str) -> None:
        if name in OUT_OF_RANGE:
            with pytest.raises(DpbenchError, match=next(iter(OUT_OF_RANGE[name]))):
                configure(defenses()[name], OUT_OF_RANGE[name])
        with pytest.raises(DpbenchError, match="unknown parameter"):
            configure(defenses()[name], {"no_such_thing": 1})
