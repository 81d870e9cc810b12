"""The client as an attacker holds it who has its weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from dpbench.contract.defense import ProtectedModel
from dpbench.errors import DpbenchError
from dpbench.machine.process_state import preserved
from dpbench.service.quantisation import understood


class WhiteBox:
    """The client as a white-box attacker holds it: everything up to the release, not the server's tail.

    A copy: what the attacker does to it, nobody else sees; and what the defense does to its input, the attacker does
    not.
    """

    def __init__(self, model: ProtectedModel) -> None:
        self._shares: bool | None = None  # whether several draws may share the head; not known yet
        try:
            self._model = copy.deepcopy(model)
        except (TypeError, RuntimeError) as error:
            raise DpbenchError(
                f"the defense cannot be copied for an attacker who holds the client ({' '.join(str(error).split())}); "
                "keep nothing in the model that Python's copy.deepcopy refuses"
            ) from error

    def release(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Images (N,3,H,W) in [0,1] -> released features (N, ...), of integers what they mean: without gradients."""
        with preserved():
            return understood(self._model, self._model.release(images.clone(), generator=generator))

    def releases(self, images: Tensor, draws: int, *, generator: torch.Generator | None = None) -> list[Tensor]:
        """See `Client`: the head runs once where a release is found to be `transform` of `features`, nothing else."""
        if draws == 1 or generator is None or not self._shares_the_head(images):
            return [self.release(images, generator=generator) for _ in range(draws)]
        return self._transformed(images, draws, generator)

    def _transformed(self, images: Tensor, draws: int, generator: torch.Generator) -> list[Tensor]:
        features = self.features(images)
        with preserved():
            drawn = [self._model.transform(features.clone(), generator=generator) for _ in range(draws)]
            return [understood(self._model, released) for released in drawn]

    def _shares_the_head(self, images: Tensor) -> bool:
        """Whether draws from the same features are those of whole releases: tried once, on two images."""
        if self._shares is None:
            self._shares = _transforms(self._model) and self._same_from_one_head(images[:2].detach())
        return self._shares

    def _same_from_one_head(self, images: Tensor) -> bool:
        one, other = (torch.Generator(images.device).manual_seed(0) for _ in range(2))
        each = [self.release(images, generator=one) for _ in range(2)]
        try:
            together = self._transformed(images, 2, other)
        except Exception:  # whatever a model raises that wants new features for each draw
            return False
        return all(torch.equal(*pair) for pair in zip(each, together, strict=True))

    def features(self, images: Tensor) -> Tensor:
        """Images -> features before the defense, with gradients."""
        with preserved():
            return self._model.features(images.clone())


def _transforms(model: ProtectedModel) -> bool:
    """Whether a release is `transform` of `features` and nothing else."""
    return type(model).release is ProtectedModel.release and "release" not in vars(model)
