"""Clients that draw from a few noise tensors, or rotate in one of a few secret ways: told apart, undone, decoded."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from dpbench.contract.attack import Attack, Observation
from dpbench.contract.threat import Needs
from dpbench.machine.devices import place
from dpbench.plugins.registry import register
from dpbench.service.release import RELEASE_BATCH
from dpbench.text.hashing import content_hash
from dpbench.toolkit.inverse_training import InverseTraining
from dpbench.toolkit.inversion import channel_axis, pooled, victim_releases
from dpbench.toolkit.view import viewed
from dpbench_attacks._alignment import map_without_pairs, procrustes

TOGETHER = 1.5
"""Releases of one image that are no farther apart than so many times a release is from its nearest come from one
component: with many values, distances of the same noise hardly differ."""

EXPLAINED = 0.2
"""Share of the variance between components above which what was found does not explain them."""

KNOWN = 1000
"""Images of the attacker's own whose features say how undefended ones are distributed."""

KNOWN_VALUES = 1 << 25
"""At most so many of their features' values; of larger features there are fewer images."""

RIDGE = 1e-2
"""Share of the mean eigenvalue that is added to all."""


@register
class Unmixing(Attack):
    """Finds the components of a client's randomness from repeated queries, undoes them, and decodes what is left.

    A client that adds one of a few fixed noise tensors (Mireshghallah et al. 2020, "Shredder: learning noise
    distributions to protect inference privacy", which draws from a stored collection), or mixes its channels by one
    of a few secret rotations, releases the same image in a few ways only. These are told apart by clustering; which
    of one image's belongs to which of another's is followed along a path of blended images, on which releases move
    little. Each component is mapped to the first by the mean difference or, if that explains them better, by the
    orthogonal map of the channels that fits pairs best (Schoenemann 1966, "A generalized solution of the orthogonal
    Procrustes problem"). A victim's component is the one whose map makes of its release what looks most like the
    first component, as a normal distribution. Ours in this combination; the decoder is that of `decoder`. Where a
    client has one component, or too many to be told apart, this is the decoder.

    Who may query only the undefended client has no pairs. If releases have the spectrum of undefended features and do
    not lie where those do, one rotation of the channels is looked for that brings them there: principal axes, means
    and skewness give a start, iterated closest points the rest (`map_without_pairs`). From some 16 to 32 releases on
    that is possible; not behind much noise, and not where positions are mixed, too, as `rotate` does at most sizes.
    """

    name: ClassVar[str] = "mixture"
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "https://arxiv.org/abs/1905.11814"
    needs: ClassVar[Needs] = "query"
    budgets: ClassVar[dict[str, dict[str, float]]] = {
        size: {"stations": stations} | InverseTraining.budget_of_part(size)
        for size, stations in (("small", 0.5), ("large", 2))
    }

    repeats: int = Field(96, ge=4, le=100_000, description="queries of each image; tells about a third as many apart")
    stations: int = Field(16, ge=2, le=1024, description="auxiliary images that the path of blends passes")
    stops: int = Field(8, ge=1, le=1024, description="blends from one to the next")
    decoder_steps: int = Field(800, ge=1, le=100_000, description="of the decoder, as in `decoder`")
    decoder_width: int = Field(128, ge=8, le=1024, description="likewise")
    decoder_blocks: int = Field(2, ge=1, le=32, description="likewise")
    decoder_batch_size: int = Field(64, ge=2, le=4096, description="likewise")

    def reconstruct(self, seen: Observation, *, generator: torch.Generator) -> Tensor:
        """Undo the mixture, then decode: (N,3,H,W) in [0,1]."""
        seen = viewed(seen)
        seen.granted_query()
        seen = self._unmixed(seen) if seen.adaptive else _turned_back(seen, generator)
        decoder = InverseTraining.of(self).within(seen)
        return decoder.apply(decoder.trained(seen), pooled(victim_releases(seen)))

    def _unmixed(self, seen: Observation) -> Observation:
        """The same observation of releases as the first component would have made them; noted how many there are."""
        query, shape = seen.granted_query(), tuple(seen.released.shape[1:])

        @torch.no_grad()
        def find(generator: torch.Generator) -> dict[str, Tensor]:
            seen.progress("telling components apart")
            return self._found(seen).state_dict()

        name = content_hash([self.repeats, self.stations, self.stops, shape])[:16]
        state = seen.remember(f"components-{name}", find, "query")
        components = Components(shape, len(state["shift"]))
        components.load_state_dict(state)
        place(components, seen.released.device).eval()
        seen.notes["components"] = len(state["shift"])
        seen.notes["rotated"] = bool(state["rotated"])
        if len(state["shift"]) == 1:
            return seen
        return replace(
            seen,
            released=components(seen.released),
            again=tuple(components(release) for release in victim_releases(seen)[1:]),
            query=lambda images: components(query(images)),
            remember=lambda what, train, depends_on, *, owner=None: seen.remember(
                f"{what}-unmixed-{name}", train, depends_on
            ),
        )

    def _found(self, seen: Observation) -> Components:
        """The components; one alone where there is nothing to tell apart."""
        shape = tuple(seen.released.shape[1:])
        path = self._path(seen)
        if path is None:
            return place(Components(shape, 1), seen.released.device)
        components = place(Components(shape, path.shape[1]), seen.released.device)
        explained = components.fit(path.unflatten(2, shape))
        if explained > EXPLAINED:
            return place(Components(shape, 1), seen.released.device)
        return components

    def _path(self, seen: Observation) -> Tensor | None:
        """What each component makes of blends of images, (stops, components, values); None where there is but one."""
        query, device = seen.granted_query(), seen.released.device
        images = seen.auxiliary.images[: self.stations].to(device)
        found: list[Tensor] = []
        for start, end in itertools.pairwise(images):
            for share in torch.linspace(0, 1, self.stops + 1)[:-1].tolist():
                seen.progress(f"telling components apart, {len(found)}/{(len(images) - 1) * self.stops}")
                image = torch.lerp(start, end, share).expand(self.repeats, -1, -1, -1)
                releases = torch.cat([query(some).float().flatten(1) for some in image.split(RELEASE_BATCH)])
                centres = clusters(releases)
                if not found:
                    if not 1 < len(centres) <= self.repeats // 3:
                        return None
                    found.append(centres)
                    continue
                rows, columns = linear_sum_assignment(torch.cdist(found[-1], centres).numpy(force=True))
                moved = found[-1].clone()  # what was not drawn this time stays where it was
                moved[torch.from_numpy(rows).to(device)] = centres[torch.from_numpy(columns).to(device)]
                found.append(moved)
        return torch.stack(found)


class Components(nn.Module):
    """Releases (N, ...) -> the same as the first component would have made them.

    Args:
        feature_shape: releases without the batch axis.
        count: of components.
    """

    shift: Tensor
    matrix: Tensor
    rotated: Tensor
    mean: Tensor
    whitening: Tensor

    def __init__(self, feature_shape: tuple[int, ...], count: int) -> None:
        super().__init__()
        self.axis = channel_axis((1, *feature_shape))
        channels = feature_shape[self.axis - 1]
        rows = torch.zeros(count, *feature_shape).movedim(self.axis, -1)
        self.register_buffer("shift", torch.zeros_like(rows))
        self.register_buffer("matrix", torch.eye(channels).repeat(count, 1, 1))
        self.register_buffer("rotated", torch.zeros((), dtype=torch.bool))
        self.register_buffer("mean", torch.zeros_like(rows[0]))
        self.register_buffer("whitening", torch.eye(channels))

    def fit(self, path: Tensor) -> float:
        """Take the maps from what each component made of the same images, (images, components, ...).

        Returns:
            Share of the variance between components that the better of the two kinds of maps leaves, on the images
            of the last quarter.
        """
        rows = path.movedim(self.axis + 1, -1)  # (images, components, ..., C)
        known, other = rows[: -(len(rows) // 4)], rows[-(len(rows) // 4) :]
        shift = (known[:, :1] - known).mean(0)
        left = float((other + shift - other[:, :1]).square().mean())
        maps = [procrustes(known[:, k], known[:, 0]) for k in range(rows.shape[1])]
        turned = torch.stack([other[:, k] @ one.matrix + one.offset for k, one in enumerate(maps)], 1)
        also = float((turned - other[:, :1]).square().mean())
        if also < left / 2:  # a map of so many more numbers must earn it
            self.matrix.copy_(torch.stack([one.matrix for one in maps]))
            self.rotated.fill_(True)
            shift = torch.stack([one.offset.expand_as(rows[0, 0]) for one in maps])
        self.shift.copy_(shift)
        self.mean.copy_(rows[:, 0].mean(0))
        samples = (rows[:, 0] - self.mean).flatten(0, -2)
        covariance = (samples.T @ samples / len(samples)).cpu().double()
        values, vectors = torch.linalg.eigh(covariance)
        ridge = RIDGE * values.clamp_min(0).mean().clamp_min(1e-24)
        self.whitening.copy_(vectors @ torch.diag((values.clamp_min(0) + ridge).rsqrt()) @ vectors.T)
        apart = float((other - other[:, :1]).square().mean())
        return min(left, also) / max(apart, 1e-24)

    @torch.no_grad()
    def forward(self, released: Tensor) -> Tensor:
        """(N, ...) -> (N, ...), fp32; each by the component that makes it look most like the first."""
        return torch.cat([self._undone(chunk) for chunk in released.float().split(RELEASE_BATCH)])

    def _undone(self, released: Tensor) -> Tensor:
        rows = released.movedim(self.axis, -1)
        best = torch.full((len(rows),), torch.inf, device=rows.device)
        found = rows.clone()
        for matrix, shift in zip(self.matrix, self.shift, strict=True):
            undone = rows @ matrix + shift
            unlikely = ((undone - self.mean) @ self.whitening).square().flatten(1).mean(1)
            better = unlikely < best
            best = torch.where(better, unlikely, best)
            found[better] = undone[better]
        return found.movedim(-1, self.axis).contiguous()


def _turned_back(seen: Observation, generator: torch.Generator) -> Observation:
    """The same observation, its releases turned into what undefended features look like, where a rotation hid them."""
    seen.progress("looking for a rotation")
    query, device = seen.granted_query(), seen.released.device
    most = max(1, KNOWN_VALUES // seen.released[0].numel())
    images = seen.auxiliary.images[: min(KNOWN, most)]
    known = torch.cat([query(some.to(device)) for some in images.split(RELEASE_BATCH)])
    found = map_without_pairs(seen.released[:most], known, seen.image_shape[1:], generator=generator)
    seen.notes["rotated"] = found is not None
    if found is None:
        return seen
    return replace(seen, released=found(seen.released), again=tuple(found(release) for release in seen.again))


def clusters(rows: Tensor) -> Tensor:
    """Centres (K,D) of the groups in which rows (N,D) lie: of single linkage, see `TOGETHER`."""
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = (distances + torch.diag(torch.full((len(rows),), torch.inf, device=rows.device))).min(1).values
    together = distances <= TOGETHER * nearest.median() + 1e-5 * distances.mean()
    reach = together.float()
    for _ in range(int(np.ceil(np.log2(len(rows))))):
        reach = ((reach @ reach) > 0).float()
    first = reach.argmax(1)
    return torch.stack([rows[first == leader].mean(0) for leader in first.unique()])
