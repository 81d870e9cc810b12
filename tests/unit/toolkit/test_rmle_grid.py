"""What `rmle` chooses its regularisers from: its wide grid holds the decoder's image itself."""

import dataclasses

import piq
import pytest
import torch
from dpbench_attacks.decoder import Decoder
from dpbench_attacks.rmle import FURTHER, RegularisedMaximumLikelihood
from tiny_observation import observed
from torch import Tensor

from dpbench.contract.attack import Observation
from dpbench.contract.defense import ProtectedModel
from dpbench.machine.randomness import derive_generator
from dpbench.metrics.intervals import mean_interval
from dpbench.suite.ensembles import ENSEMBLES
from dpbench.testing.tiny import CPU, smooth

DECODER = {"steps": 40, "width": 32, "blocks": 1, "batch_size": 32}
SEARCH = {"steps": 20, "trials": 2} | {f"decoder_{name}": value for name, value in DECODER.items()}


class Loud(ProtectedModel):
    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return features + 0.8 * torch.randn(features.shape, generator=generator)


@pytest.fixture(scope="module")
def noisy() -> tuple[Observation, Tensor]:
    victims = smooth(12, seed="victims")
    seen = observed(Loud, victims, smooth(320, seed="auxiliary"))
    return dataclasses.replace(seen, undefended=seen.client), victims


def inverted(attack: Decoder | RegularisedMaximumLikelihood, seen: Observation) -> tuple[Tensor, dict[str, object]]:
    seen = dataclasses.replace(seen, notes={})
    return attack.reconstruct(seen, generator=derive_generator(CPU, "attack")), seen.notes


def test_a_wide_grid_never_worsens_its_start_by_more_than_chance(noisy):
    seen, victims = noisy
    start, _ = inverted(Decoder(**DECODER), seen)
    wide, notes = inverted(RegularisedMaximumLikelihood(**SEARCH, grid="wide"), seen)
    gain = piq.psnr(wide, victims, reduction="none") - piq.psnr(start, victims, reduction="none")
    assert mean_interval(gain.double().numpy())[2] >= 0
    assert notes["nearness"] in (*FURTHER, "the start is kept")
    assert notes["converged"] is True


def test_the_start_is_kept_where_every_search_only_harms(noisy):
    seen, _ = noisy
    # one step of the largest size throws every image away
    harmful = SEARCH | {"steps": 1, "learning_rate": 1.0, "total_variation": (0.0,), "nearness": (0.0,)}
    start, _ = inverted(Decoder(**DECODER), seen)
    kept, notes = inverted(RegularisedMaximumLikelihood(**harmful, grid="wide"), seen)
    assert notes["nearness"] == "the start is kept"
    torch.testing.assert_close(kept, start)


def test_a_narrow_grid_is_what_ensembles_pin():
    narrow, wide = RegularisedMaximumLikelihood(), RegularisedMaximumLikelihood(grid="wide")
    assert "grid" not in narrow.model_dump()
    assert wide.model_dump()["grid"] == "wide"
    assert ENSEMBLES["ensemble-v1.1"]["rmle"] == RegularisedMaximumLikelihood.version
    assert wide.model_copy(update={"grid": "narrow"}) == narrow
