"""A classifier that asks the nearest of the private images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NEIGHBOURS, TEMPERATURE = 20, 0.07
"""As DINO's evaluation has it."""


class Neighbours(nn.Module):
    """k nearest neighbours by cosine, weighted by exp(cosine / 0.07). Wu et al. 2018; Caron et al. 2021.

    The server holds the features of all private images.

    Args:
        bank: (M,D) features of labelled images.
        labels: (M,) int64 in [0, classes).
        classes: number of outputs.
    """

    bank: Tensor
    votes: Tensor

    def __init__(self, bank: Tensor, labels: Tensor, classes: int) -> None:
        super().__init__()
        self.register_buffer("bank", F.normalize(bank.float(), dim=1))
        self.register_buffer("votes", F.one_hot(labels, classes).float())

    def forward(self, features: Tensor) -> Tensor:
        """(N,D) -> logits (N, classes): the logarithm of each class's share of the votes."""
        similar = F.normalize(features, dim=1) @ self.bank.T
        nearest, places = similar.topk(min(NEIGHBOURS, self.bank.shape[0]), dim=1)
        weights = torch.softmax(nearest / TEMPERATURE, dim=1)
        shares = (weights[:, :, None] * self.votes[places]).sum(1)
        return (shares + 1e-6).log()
