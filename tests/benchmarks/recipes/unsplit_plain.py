"""UnSplit: neither images nor the client, only its architecture."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.attack import Observation

from .common import one_at_a_time, squared_total_variation


def unsplit_plain(seen: Observation, untrained_head: nn.Module, *, rounds: int = 200) -> Tensor:
    """Fit a substitute client and the image in turn, one image at a time: (N,3,H,W) in [0,1].

    Erdogan et al. 2022, "UnSplit: data-oblivious model inversion, model stealing, and label inference attacks against
    split learning". Alternate 100 steps on the image and 100 on the weights, Adam 1e-3 with AMSGrad, mean squared
    difference of the features, TV 0.1 on the image, which starts at 0.5. Differs: 200 rounds at most, not 1,000.
    Unknown, and chosen here: each image gets its own substitute, in eval mode (its batch normalisation is
    an affine map, as the client's is); TV with beta = 2; both optimisers keep their state between rounds. Sees only
    the released features and `untrained_head`, the client's architecture with fresh weights.
    """

    def descend(optimizer: torch.optim.Optimizer, head: nn.Module, x: Tensor, released: Tensor, tv: float) -> None:
        for _ in range(100):
            loss = functional.mse_loss(head(x), released)
            if tv:
                loss = loss + tv * squared_total_variation(x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def adam(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, 1e-3, amsgrad=True, fused=True)

    def invert(released: Tensor) -> Tensor:
        head = copy.deepcopy(untrained_head).eval()
        x = torch.full((1, *seen.image_shape), 0.5, device=released.device, requires_grad=True)
        image_optimizer, weight_optimizer = adam([x]), adam(head.parameters())
        for _ in range(rounds):
            head.requires_grad_(False)  # each half turn computes only the gradients that it uses
            descend(image_optimizer, head, x, released, tv=0.1)
            head.requires_grad_(True)
            descend(weight_optimizer, head, x.detach(), released, tv=0.0)
        return x

    return one_at_a_time(seen, invert)
