"""Shuffled tokens: a perceptron says where each belongs, an assignment decides, a decoder does the rest."""

from __future__ import annotations

from dataclasses import replace

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.attack import Observation
from dpbench.machine.randomness import seeded

from .common import seed_of
from .decoder_plain import decoder_plain


def reorder_plain(seen: Observation, *, generator: torch.Generator, steps: int = 5000, epochs: int = 50) -> Tensor:
    """Learn positions from features in order, which the weights give, then place and decode: (N,3,H,W) in [0,1].

    d -> d -> positions, cross-entropy; an assignment on the log-probabilities. Unknown, and chosen here: ReLU, Adam
    1e-3, 5,000 steps of 32 images; the decoder is `decoder_plain`, which learns from features that were put in order
    in the same way, mistakes and all.
    """
    client, query, images = seen.granted_client(), seen.granted_query(), seen.auxiliary.images
    channels, side = seen.released.shape[1], seen.released.shape[2]
    with seeded(seed_of(generator), images.device):
        network = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, side * side))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    right = torch.arange(side * side)
    for _ in range(steps):
        some = images[torch.randint(len(images), (32,), generator=generator)]
        with torch.no_grad():
            tokens = client.features(some).float().flatten(2).transpose(1, 2)
        loss = functional.cross_entropy(network(tokens).flatten(0, 1), right.repeat(len(some)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def ordered(released: Tensor) -> Tensor:
        tokens = released.float().flatten(2).transpose(1, 2)
        placed = torch.zeros_like(tokens)
        for row, costs in enumerate(-network(tokens).log_softmax(2)):
            placed[row, torch.from_numpy(linear_sum_assignment(costs.numpy())[1])] = tokens[row]
        return placed.transpose(1, 2).unflatten(2, (side, side)).contiguous()

    straight = replace(seen, released=ordered(seen.released), query=lambda some: ordered(query(some)), client=None)
    return decoder_plain(straight, generator=generator, epochs=epochs)
