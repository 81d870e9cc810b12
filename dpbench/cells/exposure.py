"""What a release says whatever the attack: what is guaranteed of it, what it costs the client, whom it names."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dpbench.cells.observing import Answers, KnownClient
from dpbench.cells.prepare import Prepared, Progress, undefended_spec
from dpbench.cells.result import Released
from dpbench.contract.defense import ProtectedModel
from dpbench.errors import reason
from dpbench.machine import cache
from dpbench.machine.randomness import derive_generator
from dpbench.metrics.guarantees import Guarantees, NotBorneOut, guarantees_of
from dpbench.metrics.linkage import Link, candidates_of, link_ranks
from dpbench.plugins.apart import remote
from dpbench.service.costs import TIMED, ClientCost, Work, coded_bits, cost_of
from dpbench.service.release import Release
from dpbench.suite.cell import CellSpec
from dpbench.suite.ensembles import is_floor
from dpbench.text.hashing import content_hash

LINKED = 256
"""Test images that are looked for among candidates at once, where no cell has more victims."""

CLAIMED = 128
"""Private and auxiliary images whose features must keep to the norm that a defense states."""


class Exposure:
    """Figures of releases that cells of one client share.

    Args:
        prepared: data, networks and defended models of the cells.
        known_client: a cell -> the client that its attacker prepares on, and its key.
    """

    def __init__(self, prepared: Prepared, known_client: KnownClient) -> None:
        self.prepared = prepared
        self.known_client = known_client

    def guarantees(
        self, cell: CellSpec, protected: ProtectedModel, victims: Tensor, progress: Progress
    ) -> tuple[Guarantees | None, str]:
        """What is guaranteed, and why nothing is where the defense claims something."""
        key = self.prepared.protected_key(cell, cell.defense, progress)
        parts = self.prepared.parts(cell, progress)
        others = [part.images[:CLAIMED] for part in (parts.private, self.prepared.auxiliary(cell, progress))]

        def make(size: int) -> tuple[Guarantees | None, str]:
            generator = derive_generator(self.prepared.device, key, "guarantees")
            try:
                found = guarantees_of(
                    protected, victims, releases=cell.releases, generator=generator, batch_size=size, others=others
                )
            except NotBorneOut as error:
                return None, str(error)
            return found, ""

        guarantees: tuple[Guarantees | None, str] = self.prepared.keep(
            "guarantees", f"{key} {cell.releases} {len(victims)}", lambda: self.prepared.batches(make)
        )
        return guarantees

    def cost(
        self, cell: CellSpec, protected: ProtectedModel, release: Release, progress: Progress
    ) -> tuple[Work | None, ClientCost | None, str]:
        """What a release costs the client: its work, the cost, and why they are not there where they are not."""
        key = self.prepared.protected_key(cell, cell.defense, progress)

        def make() -> tuple[Work | None, ClientCost | None, str]:
            images = self.prepared.parts(cell, progress).auxiliary.images[:TIMED].to(self.prepared.device)
            bare = ProtectedModel(self.prepared.protected(cell, undefended_spec(), progress).split)
            try:
                work = remote.work(protected, images, derive_generator(self.prepared.device, key, "cost"))
            except Exception as error:  # whatever a plug-in raises when it is watched: other figures are there
                return None, None, reason(error)
            undefended = remote.work(bare, images, derive_generator(self.prepared.device, key, "cost"))
            coded = coded_bits(release.features[0], release.bits * release.images, release.dtype)
            return work, cost_of(work, undefended, math.ceil(coded / release.images)), ""

        found: tuple[Work | None, ClientCost | None, str] = self.prepared.keep("cost", f"{key} {cell.releases}", make)
        return found

    def link(self, cell: CellSpec, released: Released, progress: Progress) -> Link | None:
        """How well releases alone name the victims; None where the attacker has no client to ask, or only guesses."""
        if is_floor(cell.attack.name) or cell.threat_model == "observe":
            return None
        adaptive = cell.threat_model != "static"
        key = self.prepared.protected_key(cell, cell.defense, progress)
        features = [rows[: max(cell.victims, LINKED)] for rows in released.release.features]

        def make() -> Link | None:
            parts = self.prepared.parts(cell, progress)
            most = max(cell.victims, candidates_of(cell.dataset.image_size))
            first = parts.test.images[:most]
            pool = [first, parts.auxiliary.images[: most - len(first)]]
            crowd = released.crowd if adaptive else None
            model = remote.answering(self.known_client(cell, progress)[0], crowd)
            about = {
                "client": key,
                "data": cell.data_fingerprint,
                "releases": cell.releases,
                "adaptive": adaptive,
                "victims": len(features[0]),
                "way": 2,
            }

            def compare() -> cache.State:
                ranks = link_ranks(features, pool, Answers(model, self.prepared.device, key, "link", adaptive))
                return {"rank": torch.tensor(ranks or [], dtype=torch.long)}

            learned = cache.remember(self.prepared.cache_dir, "links", content_hash(about), compare, progress, about)
            found = learned["rank"]
            return Link(rank=found.tolist(), candidates=sum(map(len, pool))) if len(found) else None

        progress("comparing releases with those of candidates")
        slot = "link" if adaptive else "link static"
        of_these = f"{key} {cell.data_fingerprint} {cell.releases} {len(features[0])}"
        found: Link | None = self.prepared.keep(slot, of_these, make)
        return found.model_copy(update={"rank": found.rank[: cell.victims]}) if found else None
