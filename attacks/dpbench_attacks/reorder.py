"""Tokens that come in another order each time, or not all of them: back to their places first, then decoded."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.attack import Attack, Client, Observation
from dpbench.contract.threat import Needs
from dpbench.machine.devices import autocast, place
from dpbench.models.training import one_cycle
from dpbench.plugins.registry import register
from dpbench.service.release import RELEASE_BATCH
from dpbench.text.hashing import content_hash
from dpbench.toolkit.inverse_training import InverseTraining
from dpbench.toolkit.inversion import channel_axis, initialise, pooled, victim_releases
from dpbench.toolkit.view import viewed

PROBES = 32
"""Auxiliary images on which the client is looked at."""

SHUFFLED = 1.5
"""So many times as far from the features as in the best order are the tokens of a client that shuffles."""

ALIKE = 0.5
"""Share of the distance between any two tokens within which a released token is one of the features."""

HEADS = 4


@register
class Reordering(Attack):
    """A network says where each released token belongs, an assignment puts them there, a decoder does the rest.

    Noroozi & Favaro 2016, "Unsupervised learning of visual representations by solving jigsaw puzzles"; Kuhn 1955,
    "The Hungarian method for the assignment problem", on the log-probabilities. What belongs where is learned on
    auxiliary images: each released token is the one of the undefended features, which the client's weights give in
    order, that is nearest to it. Differs: all tokens of an image are looked at together, by attention without
    positions (Lee et al. 2019, "Set transformer"), not each for itself; missing tokens leave zeros; the decoder is
    that of `decoder`, and learns from the true order, which the attacker knows of its own images. Positions of feature
    maps count as tokens. Where a client does not shuffle, and where features have no positions, it is the decoder.
    """

    name: ClassVar[str] = "reorder"
    paper: ClassVar[str] = "https://arxiv.org/abs/1603.09246"
    needs: ClassVar[Needs] = "weights"
    budgets: ClassVar[dict[str, dict[str, float]]] = {
        size: {"steps": steps} | InverseTraining.budget_of_part(size) for size, steps in (("small", 0.5), ("large", 4))
    }

    steps: int = Field(1000, ge=1, le=1_000_000, description="of the network that places tokens")
    learning_rate: float = Field(1e-3, gt=0, le=0.1, description="likewise, peak of the one-cycle schedule, AdamW")
    width: int = Field(128, ge=HEADS, le=1024, multiple_of=HEADS, description="likewise")
    layers: int = Field(2, ge=1, le=16, description="likewise")
    batch_size: int = Field(32, ge=2, le=1024, description="images per step")
    decoder_steps: int = Field(800, ge=1, le=100_000, description="of the decoder, as in `decoder`")
    decoder_width: int = Field(128, ge=8, le=1024, description="likewise")
    decoder_blocks: int = Field(2, ge=1, le=32, description="likewise")
    decoder_batch_size: int = Field(64, ge=2, le=4096, description="likewise")

    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """Put the tokens in order, then decode: (N,3,H,W) in [0,1]."""
        client = seen.granted_client()
        through = viewed(seen)
        shuffles = through.released is seen.released and self._shuffles(seen, client)
        seen.notes["reordered"] = shuffles
        seen = self._in_order(seen, client) if shuffles else through
        decoder = InverseTraining.of(self).within(seen)
        return decoder.apply(decoder.trained(seen), pooled(victim_releases(seen)))

    @torch.no_grad()
    def _shuffles(self, seen: Observation, client: Client) -> bool:
        """Whether released tokens are features of the same image in another order, or some of them."""
        images = seen.auxiliary.images[: min(PROBES, seen.batch_size)].to(seen.released.device)
        features, released = client.features(images), seen.granted_query()(images)
        if channels_of(features) is None or channels_of(features) != channels_of(released):
            return False
        one, other = standardised(tokens_of(released)), standardised(tokens_of(features))
        distances = torch.cdist(one, other)  # (N, released, all)
        if distances.shape[1] > distances.shape[2]:
            return False
        places = assigned(distances)
        there = present(tokens_of(released))
        nearest = distances.gather(2, places[:, :, None])[..., 0][there].mean()
        if not nearest < ALIKE * distances.mean():
            return False
        if distances.shape[1] < distances.shape[2]:
            return True
        return bool(distances.diagonal(dim1=1, dim2=2)[there].mean() > SHUFFLED * nearest + 1e-6)

    def _in_order(self, seen: Observation, client: Client) -> Observation:
        """The same observation of releases that were put in order."""
        device = seen.released.device
        query = seen.granted_query()
        with torch.no_grad():
            shape = tuple(client.features(seen.auxiliary.images[:2].to(device)).shape[1:])
        positions = tokens_of(torch.empty(1, *shape, device="meta")).shape[1]
        channels = seen.released.shape[channel_axis(tuple(seen.released.shape))]
        network = Placing(channels, positions, width=self.width, layers=self.layers)
        batch = seen.auxiliary.training_batch(self.batch_size)
        own = [self.steps, self.learning_rate, self.width, self.layers, batch, shape, tuple(seen.released.shape[1:])]
        name = content_hash(own)[:16]

        def train(generator: torch.Generator) -> dict[str, Tensor]:
            right = self._train(network, seen, client, batch, generator)
            return {**network.state_dict(), "right": right}

        state = dict(seen.remember(f"placing-{name}", train, "query"))
        seen.notes["tokens_placed"] = round(float(state.pop("right")), 4)
        network.load_state_dict(state)
        place(network, device).eval().requires_grad_(False)

        @torch.no_grad()
        def ordered(released: Tensor) -> Tensor:
            chunks = [tokens_of(chunk) for chunk in released.split(RELEASE_BATCH)]
            places = [assigned(-network(chunk).log_softmax(2)) for chunk in chunks]
            return torch.cat([laid(*pair, positions, shape) for pair in zip(chunks, places, strict=True)])

        @torch.no_grad()
        def answered(images: Tensor) -> Tensor:
            """In the true order, which the attacker knows of its own images, mirrored ones too."""
            released = tokens_of(query(images))
            return laid(released, true_places(released, client.features(images)), positions, shape)

        return replace(
            seen,
            released=ordered(seen.released),
            again=tuple(ordered(release) for release in victim_releases(seen)[1:]),
            query=answered,
            client=None,
            remember=lambda what, train, depends_on, *, owner=None: seen.remember(
                f"{what}-in-order-{name}", train, depends_on
            ),
        )

    def _train(
        self, network: Placing, seen: Observation, client: Client, batch: int, generator: torch.Generator
    ) -> Tensor:
        """Trains `network` in place; returns the share of tokens that it placed right in the last steps, ()."""
        device, images, query = seen.released.device, seen.auxiliary.images, seen.granted_query()
        initialise(network, generator)
        place(network, device).train()
        with torch.no_grad():
            network.standardise(torch.cat([query(some.to(device)) for some in images[: 8 * batch].split(batch)]))
        optimizer = torch.optim.AdamW(network.parameters(), self.learning_rate, weight_decay=1e-2)
        schedule = one_cycle(optimizer, self.learning_rate, steps=self.steps, rise=0.15)
        right: list[Tensor] = []
        for step in range(self.steps):
            if step % 20 == 0:
                seen.progress(f"placing tokens, step {step}/{self.steps}")
            chosen = torch.randint(len(images), (batch,), generator=generator, device=generator.device)
            some = images[chosen.to(images.device)].to(device)
            with torch.no_grad():
                released = tokens_of(query(some))
                true = true_places(released, client.features(some))
            there = present(released)
            with torch.enable_grad():
                logits = network(released)
                loss = functional.cross_entropy(logits[there], true[there])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            right.append((logits.argmax(2) == true)[there].float().mean())
        return torch.stack(right[-max(1, self.steps // 10) :]).mean().detach()


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
