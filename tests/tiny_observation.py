"""What an attack sees of a client made of the tiny network, for tests that look closer than `check_attack`."""

from collections.abc import Callable

import torch
from torch import Tensor

from dpbench.cells.white_box import WhiteBox
from dpbench.contract.attack import Observation
from dpbench.contract.defense import ProtectedModel
from dpbench.contract.images import LabelledImages
from dpbench.machine.randomness import derive_generator
from dpbench.testing.attacks import Shelf
from dpbench.testing.tiny import CPU, TinyNetwork


def observed(
    model: type[ProtectedModel], victims: Tensor, auxiliary: Tensor, *, layout: str = "maps", white_box: bool = True
) -> Observation:
    """Releases of the victims (N,3,16,16) in [0,1] and a client to ask; it draws anew for each query."""
    client = model(TinyNetwork(layout).split()).eval().requires_grad_(False)
    draws = derive_generator(CPU, "queries")

    @torch.no_grad()
    def query(images: Tensor) -> Tensor:
        return client.release(images, generator=draws)

    return Observation(
        released=query(victims),
        image_shape=(3, 16, 16),
        auxiliary=LabelledImages(auxiliary, torch.zeros(len(auxiliary), dtype=torch.int64)),
        query=query,
        client=WhiteBox(client) if white_box else None,
        remember=Shelf().remember,
    )


class Way:
    """A server that computes these from a release, one after the other."""

    def __init__(self, *steps: Callable[[Tensor], Tensor]) -> None:
        self.steps = steps

    def activations(self, released: Tensor) -> tuple[Tensor, ...]:
        return released, *(step(released) for step in self.steps)

    def activation(self, released: Tensor, place: int) -> Tensor:
        return self.activations(released)[place]
