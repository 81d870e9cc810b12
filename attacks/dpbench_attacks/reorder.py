"""Tokens that come in another order each time, or not all of them: back to their places first, then decoded."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from dpbench.contract.attack import Attack, Client, Observation
from dpbench.contract.threat import Needs
from dpbench.machine.devices import place
from dpbench.models.training import one_cycle
from dpbench.plugins.configuring import configure
from dpbench.plugins.registry import attacks, register
from dpbench.text.hashing import content_hash
from dpbench.toolkit.inverse_training import InverseTraining
from dpbench.toolkit.inversion import channel_axis, initialise, pooled, victim_releases
from dpbench.toolkit.view import viewed
from dpbench_attacks._token_order import (
    HEADS,
    Order,
    Placing,
    assigned,
    changed,
    channels_of,
    present,
    standardised,
    tokens_of,
    true_places,
)

PROBES = 32
"""Auxiliary images on which the client is looked at."""

SHUFFLED = 1.5
"""So many times as far from the features as in the best order are the tokens of a client that shuffles."""

ALIKE = 0.5
"""Share of the distance between any two tokens within which a released token is one of the features."""

ROUNDS = 8
"""Searches at most, each in the order that the image before it suggests."""


@register
class Reordering(Attack):
    """A network says where each released token belongs, an assignment puts them there, a decoder does the rest.

    Noroozi & Favaro 2016, "Unsupervised learning of visual representations by solving jigsaw puzzles"; Kuhn 1955,
    "The Hungarian method for the assignment problem", on the log-probabilities. What belongs where is learned on
    auxiliary images: each released token is the one of the undefended features, which the client's weights give in
    order, that is nearest to it. `then = "rmle"` goes on: a short search (the attack `rmle`) for the image whose
    features match, tokens placed anew where they are nearest to that image's, and so on until none moves. Differs: all
    tokens of an image are looked at together, by attention without positions (Lee et al. 2019, "Set transformer"), not
    each for itself; missing tokens leave zeros; the decoder is that of `decoder`, and learns from the true order, which
    the attacker knows of its own images. Positions of feature maps count as tokens. Where a client does not shuffle,
    and where features have no positions, it is the decoder, or `rmle`.
    """

    name: ClassVar[str] = "reorder"
    paper: ClassVar[str] = "https://arxiv.org/abs/1603.09246"
    needs: ClassVar[Needs] = "weights"
    budgets: ClassVar[dict[str, dict[str, float]]] = {
        size: {"steps": steps} | InverseTraining.budget_of_part(size) for size, steps in (("small", 0.5), ("large", 4))
    }

    ids_skip_default: ClassVar[tuple[str, ...]] = ("then", "search_steps")

    steps: int = Field(1000, ge=1, le=1_000_000, description="of the network that places tokens")
    learning_rate: float = Field(1e-3, gt=0, le=0.1, description="likewise, peak of the one-cycle schedule, AdamW")
    width: int = Field(128, ge=HEADS, le=1024, multiple_of=HEADS, description="likewise")
    layers: int = Field(2, ge=1, le=16, description="likewise")
    batch_size: int = Field(32, ge=2, le=1024, description="images per step")
    then: Literal["decoder", "rmle"] = Field(
        "decoder", description="what reads tokens in order; rmle also searches, and by what it finds places them anew"
    )
    search_steps: int = Field(100, ge=1, le=100_000, description="of each of up to 8 searches, whatever the budget")
    decoder_steps: int = Field(800, ge=1, le=100_000, description="of the decoder, as in `decoder`")
    decoder_width: int = Field(128, ge=8, le=1024, description="likewise")
    decoder_blocks: int = Field(2, ge=1, le=32, description="likewise")
    decoder_batch_size: int = Field(64, ge=2, le=4096, description="likewise")

    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """Put the tokens in order, then decode, and search from there if asked to: (N,3,H,W) in [0,1]."""
        client = seen.granted_client()
        through = viewed(seen)
        shuffles = through.released is seen.released and self._shuffles(seen, client)
        seen.notes["reordered"] = shuffles
        if shuffles:
            order, through = self._in_order(seen, client)
            if self.then == "rmle":
                return self._searched(seen, through, order, generator)
        elif self.then == "rmle":
            return self._search().reconstruct(replace(through, server=None), generator=generator)  # it was looked at
        decoder = InverseTraining.of(self).within(through)
        return decoder.apply(decoder.trained(through), pooled(victim_releases(through)))

    def _search(self) -> Attack:
        """A short one, from what the same decoder makes of the tokens."""
        decoder = {name: value for name, value in self if name.startswith("decoder_")}
        return configure(attacks()["rmle"], {"steps": self.search_steps, **decoder})

    def _searched(self, seen: Observation, placed: Observation, order: Order, generator: torch.Generator) -> Tensor:
        """Search, place the tokens anew, and so on; `placed` holds the order to begin with."""
        query, raw, search = seen.granted_query(), victim_releases(seen), self._search()
        trained = placed.remember
        kept: dict[str, dict[str, Tensor]] = {}
        placed = replace(
            placed,
            client=order,
            server=None,
            remember=lambda name, train, depends_on, *, owner=None: (
                kept.get(name) or kept.setdefault(name, trained(name, train, depends_on, owner=owner))
            ),
        )
        InverseTraining.of(self).within(placed).trained(placed)  # on the true order; what follows guesses, as it must
        for number in range(ROUNDS):
            notes: dict[str, object] = {}
            guessing = replace(placed, query=lambda images: order.guessed(query(images)), notes=notes)
            images = search.reconstruct(guessing, generator=generator)
            released, *again = (order.nearest(release, images) for release in raw)
            moved = changed(released, placed.released)
            seen.notes.update(notes | {"rounds": number + 1, "tokens_moved": round(moved, 4)})
            pair = {name: notes[name] for name in ("total_variation", "nearness")}
            if not moved or not all(isinstance(weight, float) for weight in pair.values()):
                break
            search = search.model_copy(update={name: (weight,) for name, weight in pair.items()})
            placed = replace(placed, released=released, again=tuple(again))
        return images

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

    def _in_order(self, seen: Observation, client: Client) -> tuple[Order, Observation]:
        """How tokens are put in order, and the same observation of releases that were."""
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
        order = Order(client, network, shape)
        return order, replace(
            seen,
            released=order.guessed(seen.released),
            again=tuple(order.guessed(release) for release in victim_releases(seen)[1:]),
            # in the true order, which the attacker knows of its own images, mirrored ones too
            query=lambda images: order.nearest(query(images), images),
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
