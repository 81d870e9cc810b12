"""The inverse network: learn from released features of one's own images what the images looked like."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dpbench.contract.attack import Attack, Observation
from dpbench.contract.threat import Needs
from dpbench.plugins.registry import register
from dpbench.toolkit.inverse_training import VERSION, InverseTraining
from dpbench.toolkit.inversion import pooled, victim_releases
from dpbench.toolkit.view import viewed


@register
class Decoder(InverseTraining, Attack):
    """A convolutional inverse network, trained on freshly released features of the auxiliary images.

    Dosovitskiy & Brox 2016, "Inverting visual representations with convolutional networks"; He et al. 2019, "Model
    inversion attacks against collaborative inference", section 5 (black box). Differs from both: residual blocks
    and pixel-shuffle (Shi et al. 2016) in place of transposed convolutions; a linear path beside them; where one
    linear map from all values to all pixels does better, as with values in a secret order, that map, refined by
    such a network; L1 plus structural dissimilarity in place of MSE, and LPIPS and an adversary where they are asked
    for (DeePSiM, Dosovitskiy & Brox 2016b); AdamW with a one-cycle schedule; features whitened over
    channels. The client is queried anew for every batch, with random flips, so a stochastic defense gives new noise
    in each epoch and the network learns to see through it. Where the victims were released several times, it is
    queried as often and learns from pooled releases. A training that did not converge is repeated once at a lower
    rate.
    """

    name: ClassVar[str] = "decoder"
    version: ClassVar[int] = VERSION
    paper: ClassVar[str] = "https://arxiv.org/abs/1506.02753"
    needs: ClassVar[Needs] = "query"

    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """Train (or remember) the inverse network and apply it: (N,3,H,W) in [0,1]."""
        seen = viewed(seen)
        training = self.within(seen)
        return training.apply(training.trained(seen), pooled(victim_releases(seen)))
