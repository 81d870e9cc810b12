"""What an attacker sees: the releases and, where its threat model grants them, halves to ask or to open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dpbench.border.crowd import Crowd
from dpbench.border.lending import Lent
from dpbench.cells.prepare import Prepared, Progress, undefended_spec
from dpbench.cells.white_box import WhiteBox
from dpbench.contract.attack import Observation, Server
from dpbench.contract.defense import ProtectedModel
from dpbench.contract.threat import AUXILIARY_SHARE
from dpbench.machine import cache
from dpbench.machine.randomness import derive_generator, derive_seed, seeded
from dpbench.plugins.apart import remote
from dpbench.plugins.configuring import attack_of
from dpbench.service.quantisation import understood
from dpbench.service.release import Release, release_in_batches
from dpbench.suite.cell import CellSpec
from dpbench.text.hashing import content_hash

KnownClient = Callable[[CellSpec, Progress], tuple[ProtectedModel, str]]
"""A cell -> the client that its attacker prepares on, and its key."""

MOST_OVERHEARD = 2048
"""Releases of others that an attacker holds who may ask nothing."""

OVERHEARD_VALUES = 1 << 28
"""Values of them at most."""


def seen_of(cell: CellSpec, probe: Tensor) -> int:
    """How many of the test images' releases the attacker of a cell holds; `probe` (n, ...) are some releases."""
    if cell.threat_model != "observe":
        return cell.victims
    return min(cell.victims + min(MOST_OVERHEARD, OVERHEARD_VALUES // probe[0].numel()), cell.dataset.test)


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


class Observer:
    """Gives each attacker what its threat model grants, and nothing else.

    Args:
        prepared: data, networks and defended models of the cells.
        device: where every tensor lives.
        cache_dir: what attacks learn is kept there.
        known_client: a cell -> the client that its attacker prepares on, and its key.
    """

    def __init__(
        self,
        prepared: Prepared,
        device: torch.device,
        cache_dir: Path,
        known_client: KnownClient,
    ) -> None:
        self.prepared = prepared
        self.device = device
        self.cache_dir = cache_dir
        self.known_client = known_client

    def observe(
        self,
        cell: CellSpec,
        release: Release,
        crowd: Crowd,
        lent: Lent,
        notes: dict[str, Any],
        progress: Progress,
    ) -> Observation:
        """What the attacker of a cell sees.

        Args:
            cell: with the threat model, the attack and the number of victims.
            release: of the test images, the victims first.
            crowd: whom the client serves beside victims and attackers.
            lent: the auxiliary images.
            notes: what the attack says of itself goes there.
            progress: shows a short text.
        """
        needs = attack_of(cell.attack).needs
        model, client_key = self.known_client(cell, progress)
        # copies: other attacks see the same release
        first, *again = (features[: cell.victims].clone() for features in release.features)
        overheard = release.features[0][cell.victims : seen_of(cell, release.features[0])].clone()
        same = client_key == self.prepared.protected_key(cell, cell.defense, progress)
        model = remote.answering(model, crowd if same else None)
        answers = Answers(model, self.device, client_key, cell.drawn_by)

        def remember(
            name: str,
            train: Callable[[torch.Generator], cache.State],
            depends_on: Literal["auxiliary", "query"],
            *,
            owner: tuple[str, str] | None = None,
        ) -> cache.State:
            about = {
                "attack": owner[0] if owner else cell.attack.identity["name"],
                "source": owner[1] if owner else cell.attack.source,
                **({"files": cell.attack.files} if cell.attack.files else {}),
                "name": name,
                "data": cell.data_fingerprint,
                "auxiliary": [cell.shifted_fingerprint, AUXILIARY_SHARE[cell.budget]],
                "seed": cell.seed,
                "client": [client_key, cell.releases] if depends_on == "query" else None,
            }
            key = content_hash(about)

            def make() -> cache.State:
                # queries inside take their randomness from the key too, whichever cell comes first
                answers.start(key)
                with seeded(derive_seed(key, "train"), self.device):
                    state = train(derive_generator(self.device, key, "train"))
                lent.check()  # else what it trained on other images would be kept
                return state

            state = cache.remember(self.cache_dir, "attacks", key, make, progress, about)
            answers.start(client_key, cell.drawn_by)
            return {tensor_name: value.to(self.device) for tensor_name, value in state.items()}

        return Observation(
            released=first,
            again=tuple(again),
            overheard=overheard if cell.threat_model == "observe" else None,
            image_shape=(3, cell.dataset.image_size, cell.dataset.image_size),
            auxiliary=lent.images,
            query=answers if needs != "nothing" else None,
            client=WhiteBox(model) if needs == "weights" else None,
            server=self._server(cell, release, progress) if cell.server == "attacker" else None,
            adaptive=cell.threat_model != "static",
            undefended=self._undefended(cell, progress) if needs == "weights" else None,
            remember=remember,
            progress=progress,
            notes=notes,
        )

    def _server(self, cell: CellSpec, released: Release, progress: Progress) -> Server:
        """The server's half of the defended model, as the attacker holds it."""

        def make() -> Server:
            # an instance that has released nothing: what it computes, it computes from the features
            return remote.tapped(self.prepared.protected(cell, cell.defense, progress, apart=True), released.dtype)

        server: Server = self.prepared.keep("server", self.prepared.protected_key(cell, cell.defense, progress), make)
        return server

    def _undefended(self, cell: CellSpec, progress: Progress) -> WhiteBox:
        return WhiteBox(self.prepared.protected(cell, undefended_spec(), progress))
