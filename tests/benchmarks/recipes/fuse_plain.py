"""What an attacker from outside does with what is at hand: the mean of several inversions."""

from __future__ import annotations

from typing import Any

import torch
from dpbench_attacks.decoder import Decoder
from dpbench_attacks.rmle import RegularisedMaximumLikelihood
from torch import Tensor

from dpbench.contract.attack import Attack, Observation
from dpbench.contract.threat import Budget
from dpbench.plugins.configuring import configure


def fuse_plain(seen: Observation, *, generator: torch.Generator, budget: Budget = "standard") -> Tensor:
    """The mean of four: `decoder`, one trained twice as long with averaged weights, `rmle` from both: (N,3,H,W).

    What beat the attacks of `ensemble-v1` on noise of the features' own size, in a trial.
    """
    given: list[tuple[type[Attack], dict[str, Any]]] = [
        (Decoder, {}),
        (Decoder, {"steps": 1600, "average": 0.99}),
        (RegularisedMaximumLikelihood, {}),
        (RegularisedMaximumLikelihood, {"decoder_steps": 1600}),
    ]
    attacks = [configure(cls, arguments).at_budget(budget) for cls, arguments in given]
    found = [attack.reconstruct(seen, generator=generator) for attack in attacks]
    return torch.stack(found).mean(0)
