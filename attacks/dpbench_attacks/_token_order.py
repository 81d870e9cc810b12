"""Tokens that come in another order each time: a network that says where each belongs, and tokens laid there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.attack import Client
from dpbench.machine.devices import autocast
from dpbench.service.release import RELEASE_BATCH
from dpbench.toolkit.inversion import channel_axis

HEADS = 4


@dataclass(frozen=True)
class Order:
    """The order in which a client's tokens were, guessed or read off images; a client itself, that keeps it.

    Attributes:
        client: the white box.
        network: guesses places.
        shape: of features, without the batch axis.
    """

    client: Client
    network: Placing
    shape: tuple[int, ...]

    @torch.no_grad()
    def guessed(self, released: Tensor) -> Tensor:
        """Releases (N, ...) as features (N, *shape), their tokens where the network says."""
        chunks = [tokens_of(chunk) for chunk in released.split(RELEASE_BATCH)]
        return torch.cat([self._laid(chunk, assigned(-self.network(chunk).log_softmax(2))) for chunk in chunks])

    def nearest(self, released: Tensor, images: Tensor) -> Tensor:
        """The same, their tokens where the features of these images (N,3,H,W) are nearest."""
        ordered = []
        for some, pictures in zip(released.split(RELEASE_BATCH), images.split(RELEASE_BATCH), strict=True):
            tokens = tokens_of(some)
            with torch.no_grad():
                places = true_places(tokens, self.client.features(pictures))
            ordered.append(self._laid(tokens, places))
        return torch.cat(ordered)

    def features(self, images: Tensor) -> Tensor:
        """See `Client`."""
        return self.client.features(images)

    def release(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """What the client releases of images (N,3,H,W), in order."""
        return self.nearest(self.client.release(images, generator=generator), images)

    def releases(self, images: Tensor, draws: int, *, generator: torch.Generator | None = None) -> list[Tensor]:
        """See `Client`."""
        return [self.nearest(some, images) for some in self.client.releases(images, draws, generator=generator)]

    def _laid(self, tokens: Tensor, places: Tensor) -> Tensor:
        return laid(tokens, places, self.network.positions, self.shape)


class Placing(nn.Module):
    """Tokens in any order (N,L,C) -> logits of the places where they belong (N,L,positions).

    Args:
        channels: of a token.
        positions: how many places there are, from `L`.
        width: of the tokens inside.
        layers: of attention.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, positions: int, *, width: int, layers: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.positions = positions
        self.enter = nn.Linear(channels, width)
        self.layers = nn.ModuleList(Attention(width) for _ in range(layers))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, positions))

    def standardise(self, released: Tensor) -> None:
        """Take the statistics of the input from releases (N, ...)."""
        rows = tokens_of(released)
        rows = rows[present(rows)]
        self.mean.copy_(rows.mean(0))
        self.std.copy_(rows.std(0, correction=0).clamp_min(1e-2 * float(rows.std())).clamp_min(1e-6))

    def forward(self, tokens: Tensor) -> Tensor:
        """(N,L,C) -> (N,L,positions), fp32."""
        absent = ~present(tokens)
        with autocast(tokens.device):
            x = self.enter((tokens - self.mean) / self.std)
            for layer in self.layers:
                x = layer(x, absent)
            logits: Tensor = self.leave(x)
        return logits.float()


class Attention(nn.Module):
    """One layer of self-attention and a small network, both with shortcuts; order makes no difference."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.body = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, absent: Tensor) -> Tensor:
        """(N,L,width), of which those that are absent (N,L) are not looked at -> (N,L,width)."""
        query, key, value = (
            part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in self.mix(self.first(x)).chunk(3, dim=2)
        )
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=~absent[:, None, None])
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        y: Tensor = x + self.body(self.second(x))
        return y


def channels_of(features: Tensor) -> int | None:
    """Channels of a token of features (N, ...); None where they have no positions."""
    return features.shape[channel_axis(tuple(features.shape))] if features.ndim in (3, 4) else None


def tokens_of(features: Tensor) -> Tensor:
    """Maps or tokens (N, ...) -> their positions as tokens (N,L,C), fp32."""
    features = features.float()
    if features.ndim == 3:
        return features
    return features.movedim(channel_axis(tuple(features.shape)), -1).flatten(1, 2)


def changed(one: Tensor, other: Tensor) -> float:
    """Share of places at which two releases in order (N, ...) hold different tokens."""
    return float((tokens_of(one) != tokens_of(other)).any(2).float().mean())


def present(tokens: Tensor) -> Tensor:
    """Which tokens (N,L,C) are there, (N,L): dropped ones are zero; at least the first counts."""
    there = (tokens != 0).any(2)
    there[:, 0] |= ~there.any(1)
    return there


def standardised(tokens: Tensor) -> Tensor:
    """Tokens (N,L,C), every channel of mean 0 and variance 1 over those that are there."""
    rows = tokens[present(tokens)]
    std = rows.std(0, correction=0)
    return (tokens - rows.mean(0)) / std.clamp_min(1e-2 * float(std.mean())).clamp_min(1e-6)


def true_places(released: Tensor, features: Tensor) -> Tensor:
    """Where released tokens (N,L,C) are in the features (N, ...) of the same images, (N,L)."""
    return assigned(torch.cdist(standardised(released), standardised(tokens_of(features))))


def laid(tokens: Tensor, places: Tensor, positions: int, shape: tuple[int, ...]) -> Tensor:
    """Tokens (N,L,C) at their places (N,L) of so many positions, as features (N, *shape); zeros where none belongs."""
    rows = tokens.new_zeros(len(tokens), positions, tokens.shape[2])
    rows.scatter_(1, places[:, :, None].expand(-1, -1, tokens.shape[2]), tokens)
    if len(shape) == 2 or channel_axis((1, *shape)) == 3:
        return rows.reshape(-1, *shape)
    return rows.transpose(1, 2).reshape(-1, *shape)


def assigned(costs: Tensor) -> Tensor:
    """The places (N,L) int64 that cost least in sum, each taken once, from costs (N,L,positions)."""
    found = [linear_sum_assignment(cost)[1] for cost in costs.numpy(force=True)]
    return torch.from_numpy(np.stack(found)).to(costs.device)
