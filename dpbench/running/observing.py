"""The black box that an attacker asks: the client's answers, with randomness of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from dpbench.contract.defense import ProtectedModel
from dpbench.machine.randomness import derive_generator
from dpbench.service.quantisation import understood
from dpbench.service.release import release_in_batches


class Answers:
    """The client as a black box: the code path of the victims' release, with its own randomness."""

    def __init__(self, model: ProtectedModel, device: torch.device, *parts: object) -> None:
        self.model = model
        self.device = device
        self.start(*parts)

    def start(self, *parts: object) -> None:
        """Draw from here on as `parts` say."""
        self.generator = derive_generator(self.device, *parts, "query")
        self.order = derive_generator(self.device, *parts, "order")

    def __call__(self, images: Tensor) -> Tensor:
        """Images (M,3,H,W) in [0,1] -> released features (M, ...), of integers what they mean."""
        return understood(self.model, release_in_batches(self.model, images, self.generator, self.order))
