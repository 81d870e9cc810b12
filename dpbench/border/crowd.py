"""Victims hide in a crowd: what a client's process serves beside what is asked of it, so that it cannot tell whom.

While the test images are released, batches of the attacker's images come between theirs. While the attacker asks, by
queries or with a copy of the client, batches of test images come again at random, with the very draw of their first
release, and must give what they gave. A client that serves victims in one way and attackers in another is found out,
however it tells them apart: by order, by number, by its process, by a generator, by notes that it left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dpbench.contract.images import Images
from dpbench.errors import DpbenchError
from dpbench.service.same_release import differ

DECOYS = 0.25
"""How often a batch of decoys comes before one of test images."""

REPLAYS = 0.1
"""How often a batch of test images comes after one that the attacker asked for."""

KEPT = 24
"""Batches of test images that are kept to come again."""

Release = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Witness:
    """One batch of the release of test images: the images, the state of the generator, and what was released."""

    images: Tensor
    draw: Tensor
    released: Tensor


@dataclass
class Crowd:
    """Whom a client serves beside those who ask.

    Attributes:
        decoys: images of the attacker's; at most one batch of them is shown at once.
        chance: decides when, on the CPU.
        witnesses: filled while test images are released.
    """

    decoys: Images
    chance: torch.Generator
    witnesses: list[Witness] = field(default_factory=list)
    seen: int = 0

    def released(self, images: Tensor, generator: torch.Generator, release: Release) -> Tensor:
        """A batch of test images (N,3,H,W), perhaps after decoys; a random choice of batches is kept."""
        if self._happens(DECOYS):
            chosen = torch.randint(len(self.decoys), (len(images),), generator=self.chance)
            release(self.decoys[chosen.to(self.decoys.device)].to(images.device), self._other(generator))
        draw = generator.get_state()
        features = release(images, generator)
        self.seen += 1
        place = len(self.witnesses)
        if place == KEPT:
            place = int(torch.randint(self.seen, (), generator=self.chance))
        if place < KEPT:
            self.witnesses[place : place + 1] = [Witness(images.detach().cpu(), draw, features.detach().cpu())]
        return features

    def asked(self, images: Tensor, generator: torch.Generator | None, release: Callable[..., Tensor]) -> Tensor:
        """A batch that the attacker asked for, perhaps followed by one of test images.

        Raises:
            DpbenchError: those are not served as they were.
        """
        features = release(images, generator)
        if self.witnesses and self._happens(REPLAYS):
            self.check(release, images.device, follow=torch.is_grad_enabled() and images.requires_grad)
        return features

    def check(self, release: Callable[..., Tensor], device: torch.device, *, follow: bool = False) -> None:
        """Release one of the kept batches again.

        Args:
            release: of the client.
            device: of its images.
            follow: as an attacker does who wants gradients.

        Raises:
            DpbenchError: it gives something else.
        """
        witness = self.witnesses[int(torch.randint(len(self.witnesses), (), generator=self.chance))]
        generator = torch.Generator(device)
        generator.set_state(witness.draw)
        again = release(witness.images.to(device).requires_grad_(follow), generator).detach().cpu()
        if differ(again, witness.released):
            raise DpbenchError(
                "the defense serves attackers something else than it released of the victims, for the same images and "
                "the same draw; it must depend on the images and its generator alone"
            )

    def _happens(self, share: float) -> bool:
        return float(torch.rand((), generator=self.chance)) < share

    def _other(self, generator: torch.Generator) -> torch.Generator:
        """A generator on the same device, seeded anew; the given one is not advanced."""
        seed = int(torch.randint(2**62, (), generator=self.chance))
        return torch.Generator(generator.device).manual_seed(seed)
