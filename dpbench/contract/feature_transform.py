"""Defenses that are one function of the features: written as that function, wrapped in a model by dpbench."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dpbench.contract.defense import AdditiveNoise, Defense, ProtectedModel, SplitModel
from dpbench.contract.images import LabelledImages
from dpbench.errors import DpbenchError


class FeatureTransform(Defense):
    """A defense without a network of its own: `transform` is what it does to the features.

    What must be measured before, `calibrate` measures on features of the private images and returns as named tensors:
    the state, which is stored with the fitted defense and handed to `transform`. A defense that trains derives from
    `Defense` instead.

        >>> import dpbench
        >>> from pydantic import Field
        >>> class Ceiling(dpbench.FeatureTransform):
        ...     '''Cuts every feature off at a multiple of the mean.'''
        ...     name = "ceiling"
        ...     height: float = Field(2.0, gt=0, le=100, description="ceiling, relative to the mean feature")
        ...
        ...     def calibrate(self, batches, *, generator):
        ...         return {"ceiling": self.height * torch.cat([batch.flatten() for batch in batches]).mean()}
        ...
        ...     def transform(self, features, state, *, generator):
        ...         return features.minimum(state["ceiling"])
        >>> Ceiling().transform(torch.tensor([1.0, 5.0]), {"ceiling": torch.tensor(3.0)}, generator=None)
        tensor([1., 3.])
    """

    def calibrate(self, batches: Iterator[Tensor], *, generator: torch.Generator) -> dict[str, Tensor]:
        """Measure what `transform` must know of the private images' features (default: nothing).

        Args:
            batches: undefended float32 features (n, ...) of at most 2,048 private images, see `feature_batches`.
            generator: the only source of randomness, on the features' device.

        Returns:
            Name -> tensor of any shape.
        """
        return {}

    @abc.abstractmethod
    def transform(self, features: Tensor, state: dict[str, Tensor], *, generator: torch.Generator | None) -> Tensor:
        """What leaves the client instead of `features` (N, ...): see `ProtectedModel.transform`.

        Args:
            features: (N, ...), of any floating type.
            state: what `calibrate` returned, on the features' device.
            generator: the only source of randomness, on the features' device; None for torch's own.
        """

    def location(self, features: Tensor, state: dict[str, Tensor]) -> Tensor:
        """What `transform` gives without its noise, differentiable; means something where noise is stated."""
        return features

    def stated_noise(self, state: dict[str, Tensor]) -> AdditiveNoise | None:
        """The noise that `transform` adds to `location`; None where it does anything else. Guarantees rest on it."""
        return None

    def is_sparse(self) -> bool:
        """See `ProtectedModel.is_sparse`."""
        return False

    def build(self, split: SplitModel) -> ProtectedModel:
        """The model around `transform`; features of any shape."""
        return TransformedModel(split, self)

    def fit(
        self,
        model: ProtectedModel,
        private: LabelledImages,
        *,
        generator: torch.Generator,
        progress: Callable[[str], None],
    ) -> None:
        """Keep what `calibrate` returns as buffers of the model.

        Raises:
            DpbenchError: it returned something else than named tensors.
        """
        assert isinstance(model, TransformedModel)
        progress("measuring the features")
        state = self.calibrate(feature_batches(model, private, generator=generator), generator=generator)
        if not isinstance(state, dict):
            self._refuse(f"returned {type(state).__name__}; expected a dict of name -> Tensor")
        for name, value in state.items():
            if not isinstance(value, Tensor):
                self._refuse(f"returned {name!r} as {type(value).__name__}; expected a Tensor")
            if not str(name).isidentifier() or (name not in model.state and hasattr(model, name)):
                self._refuse(f"named a tensor {name!r}, which a model has already or cannot have; choose another name")
            # a copy: tensors that share memory cannot be stored
            model.register_buffer(name, value.detach().to(private.images.device, copy=True))

    def _refuse(self, what: str) -> None:
        raise DpbenchError(f"defense {self.name!r}: calibrate {what}")


class TransformedModel(ProtectedModel):
    """A split model whose features go through a `FeatureTransform`; what that has measured are its buffers."""

    def __init__(self, split: SplitModel, defense: FeatureTransform) -> None:
        super().__init__(split)
        self.defense = defense

    @property
    def state(self) -> dict[str, Tensor]:
        """What the defense has measured, by name."""
        return {name: value for name, value in self._buffers.items() if value is not None}

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """See `FeatureTransform.transform`."""
        return self.defense.transform(features, self.state, generator=generator)

    def is_sparse(self) -> bool:
        """See `FeatureTransform.is_sparse`."""
        return self.defense.is_sparse()

    def location(self, images: Tensor) -> Tensor:
        """See `FeatureTransform.location`."""
        return self.defense.location(self.features(images), self.state)

    def noise(self) -> AdditiveNoise | None:
        """See `FeatureTransform.stated_noise`."""
        return self.defense.stated_noise(self.state)


def feature_batches(
    model: ProtectedModel,
    private: LabelledImages,
    *,
    generator: torch.Generator,
    images: int = 2048,
    batch_size: int = 256,
) -> Iterator[Tensor]:
    """Undefended features of at most `images` private images drawn without replacement, batch by batch.

    A few statistics over millions of values need no more images than that. fp32, no gradients; the mode of
    `model` is left alone and should be eval.

    Yields:
        (n, ...) float32 features, n <= batch_size and <= private.batch_size, on the images' device.

    Raises:
        DpbenchError: there is no private image.
    """
    if len(private) == 0:
        raise DpbenchError("a defense cannot be calibrated on 0 private images; give the dataset at least one")
    device = private.images.device
    drawn = torch.randperm(len(private), generator=generator, device=device)[:images]
    for chosen in drawn.split(min(batch_size, private.batch_size)):
        with torch.no_grad():
            yield model.features(private.images[chosen]).float()
