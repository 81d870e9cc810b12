"""Several defenses in a row: each takes what the one before released for the features that it protects."""

from __future__ import annotations

import abc
import functools
import re
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from dpbench.contract.defense import AdditiveNoise, Defense, ProtectedModel, SplitModel
from dpbench.contract.feature_transform import TransformedModel
from dpbench.contract.images import LabelledImages
from dpbench.contract.spec import PLUS
from dpbench.contract.threat import UNDEFENDED
from dpbench.errors import DpbenchError
from dpbench.service.quantisation import understood

PROBED = 4
"""Private images that are released twice, to see whether anything is drawn."""


class Composition(Defense, abc.ABC):
    """Defenses that follow each other: released in their order, and undone by the server in the reverse one.

    `composed` makes the class of a list of defenses. Its parameters are those of all; one that several have goes by
    the name of its defense: `gaussian_std`. Each is fitted on the private images with those before it already
    applied, so that noise is measured in units of what it is added to.
    """

    classes: ClassVar[tuple[type[Defense], ...]]
    """In order."""

    keys: ClassVar[tuple[dict[str, str], ...]]
    """Of each, its parameters -> the name that they have here."""

    def parts(self) -> list[Defense]:
        """The configured defenses, new ones each time."""
        return [
            cls(**{field: getattr(self, key) for field, key in keys.items()})
            for cls, keys in zip(self.classes, self.keys, strict=True)
        ]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        fitted_on = {getattr(part, "fit_on", None) for part in self.parts()} - {None}
        if len(fitted_on) > 1:
            raise DpbenchError("defenses in a row are fitted on the same images; give them one fit_on")
        return self

    def assert_at_hand(self) -> None:
        """Each of the defenses.

        Raises:
            DpbenchError: what one needs is not on this machine.
        """
        for part in self.parts():
            part.assert_at_hand()

    def build(self, split: SplitModel) -> ProtectedModel:
        """The models of all, one around the other."""
        return ComposedModel(split, self.parts())

    def fit(
        self,
        model: ProtectedModel,
        private: LabelledImages,
        *,
        generator: torch.Generator,
        progress: Callable[[str], None],
    ) -> None:
        """Fit one after the other, each on what those before it release."""
        assert isinstance(model, ComposedModel)
        for part, fitted in zip(self.parts(), model.parts, strict=True):
            assert isinstance(fitted, ProtectedModel)
            with model.drawing(generator):
                part.fit(fitted, private, generator=generator, progress=_labelled(progress, part.name))
            fitted.eval()
        model.note_draws(private.images[:PROBED])


def _labelled(progress: Callable[[str], None], name: str) -> Callable[[str], None]:
    return lambda text: progress(f"{name}: {text}")


@functools.cache
def composed(classes: tuple[type[Defense], ...]) -> type[Composition]:
    """The class of these defenses in this order, configured by the parameters of all.

    Raises:
        DpbenchError: they cannot follow each other.
    """
    name = PLUS.join(cls.name for cls in classes)
    _refuse_order(name, classes)
    keys = _keys(classes)
    fields = {
        key: (cls.model_fields[field].annotation, cls.model_fields[field])
        for cls, own in zip(classes, keys, strict=True)
        for field, key in own.items()
    }
    skipped = [own[f] for cls, own in zip(classes, keys, strict=True) for f in cls.ids_skip_default if f in own]
    namespace: dict[str, Any] = {
        "__module__": __name__,
        "__doc__": f"Released in this order: {', then '.join(f'`{cls.name}`' for cls in classes)}.",
        "__annotations__": {"only_in": ClassVar[str], **{key: annotation for key, (annotation, _) in fields.items()}},
        **{key: field for key, (_, field) in fields.items()},
        "name": name,
        "paper": "; ".join(dict.fromkeys(cls.paper for cls in classes if cls.paper)),
        "trained_on": tuple(dict.fromkeys(metric for cls in classes for metric in cls.trained_on)),
        "only_in": next((cls.only_in for cls in classes if cls.only_in), ""),
        "ids_skip_default": tuple(skipped),
        "classes": classes,
        "keys": keys,
    }
    return types.new_class("Composed", (Composition,), exec_body=lambda body: body.update(namespace))


def _refuse_order(name: str, classes: Sequence[type[Defense]]) -> None:
    protocols = sorted({cls.only_in for cls in classes if cls.only_in})
    if len(protocols) > 1:
        named = " and ".join(f"{cls.name!r} of {cls.only_in!r}" for cls in classes if cls.only_in)
        raise DpbenchError(f"defense {name!r}: {named} mean something in different protocols; use one of them")
    if any(cls.name == UNDEFENDED for cls in classes):
        raise DpbenchError(f"defense {name!r}: {UNDEFENDED!r} does nothing, before others or behind; leave it out")
    mixing = next((cls.name for cls in classes[:-1] if "images_per_release" in cls.model_fields), None)
    if mixing is not None:
        raise DpbenchError(f"defense {name!r}: {mixing!r} averages what was released of several images; put it last")


def _keys(classes: Sequence[type[Defense]]) -> tuple[dict[str, str], ...]:
    """Of each defense, its parameters -> names that tell them apart from those of the others."""
    fields = Counter(field for cls in classes for field in cls.model_fields)
    names = Counter(cls.name for cls in classes)
    keys, came = [], Counter[str]()
    for cls in classes:
        came[cls.name] += 1
        number = str(came[cls.name]) if names[cls.name] > 1 else ""
        word = re.sub(r"\W+", "_", cls.name, flags=re.ASCII).strip("_")
        prefix = f"{word if word[:1].isalpha() else f'defense_{word}'}{number}"
        keys.append({field: field if fields[field] == 1 else f"{prefix}_{field}" for field in cls.model_fields})
    return tuple(keys)


class ComposedModel(ProtectedModel):
    """A split model whose features go through several defenses, in order.

    Args:
        split: the two halves, as the backbone left them.
        defenses: configured, the first applied first.
    """

    exact: Tensor

    def __init__(self, split: SplitModel, defenses: Sequence[Defense]) -> None:
        nn.Module.__init__(self)  # `split` is that of the first part
        parts: list[ProtectedModel] = []
        around = split
        for defense in defenses:
            parts.append(defense.build(around))
            around = _around(parts[-1], split)
        for part in parts:
            for module in part.modules():
                if isinstance(module, _Released):
                    module.building = False
        self.parts = nn.ModuleList(parts)
        self.register_buffer("exact", torch.zeros((), dtype=torch.bool))

    @property
    def split(self) -> SplitModel:  # type: ignore[override]
        """The two halves that the first defense holds."""
        return self._part(0).split

    def _part(self, number: int) -> ProtectedModel:
        part = self.parts[number]
        assert isinstance(part, ProtectedModel)
        return part

    @contextmanager
    def drawing(self, generator: torch.Generator | None) -> Iterator[None]:
        """Every part draws from this generator."""
        inner = [module for module in self.modules() if isinstance(module, _Released)]
        for module in inner:
            module.generator = generator
        try:
            yield
        finally:
            for module in inner:
                module.generator = None

    @torch.no_grad()
    def note_draws(self, images: Tensor) -> None:
        """Find out on some images whether what comes before the last part depends on the image alone."""
        self.exact.fill_(self.is_exact(self._part(-1), images))

    @torch.no_grad()
    def is_exact(self, part: ProtectedModel, images: Tensor) -> bool:
        """Whether what comes before a part depends on the image alone, as far as these (N,3,H,W) show."""
        features = []
        for seed in (0, 1):
            with self.drawing(torch.Generator(images.device).manual_seed(seed)):
                features.append(part.features(images.clone()))
        return torch.equal(*features)

    def features(self, images: Tensor) -> Tensor:
        """The smashed data before all defenses: (N,3,H,W) in [0,1] -> features of any shape (N, ...)."""
        return self._part(0).features(images)

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """What all defenses that act on features alone make of them, in order."""
        for number in range(len(self.parts)):
            part = self._part(number)
            features = understood(part, part.transform(features, generator=generator))
        return features

    def release(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Client side: images (N,3,H,W) in [0,1] -> what the last defense releases (N, ...)."""
        with self.drawing(generator):
            return self._part(-1).release(images, generator=generator)

    def quantisation(self) -> tuple[float, float]:
        """That of the last, whose integers are sent."""
        return self._part(-1).quantisation()

    def is_sparse(self) -> bool:
        """Whether the last sends only what is not zero."""
        return self._part(-1).is_sparse()

    def location(self, images: Tensor) -> Tensor:
        """Of the last, with all others applied; means something where these draw nothing."""
        return self._part(-1).location(images)

    def noise(self) -> AdditiveNoise | None:
        """That of the last, if those before it draw nothing; of earlier noise see `dpbench.metrics.guarantees`."""
        return self._part(-1).noise() if bool(self.exact) else None

    def predict(self, released: Tensor) -> Tensor:
        """Server side: undoes what can be undone, the last first: (N, ...) -> (N, classes) logits."""
        return self._part(-1).predict(released)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Each tensor once: a part holds those before it too."""
        names = {name for name, _ in (*self.named_parameters(), *self.named_buffers())}
        prefix = kwargs.get("prefix", "")
        return {
            name: value
            for name, value in super().state_dict(*args, **kwargs).items()
            if name.removeprefix(prefix) in names
        }

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """See `torch.nn.Module`; what a part holds of those before it is what these hold."""
        aliases = {name: value for name, value in super().state_dict().items() if name not in self.state_dict()}
        return super().load_state_dict({**aliases, **state_dict}, strict, assign)


def _around(model: ProtectedModel, split: SplitModel) -> SplitModel:
    """A split network whose features are what `model` releases."""
    return SplitModel(
        _Released(model),
        _Predicted(model),
        split_point=split.split_point,
        image_shape=split.image_shape,
        classes=split.classes,
        packed=split.packed,
    ).eval()


class _Released(nn.Module):
    """The client of one defense as the head for the next; draws from `generator`."""

    def __init__(self, model: ProtectedModel) -> None:
        super().__init__()
        self.model = model
        self.generator: torch.Generator | None = None
        self.building = True

    def forward(self, images: Tensor) -> Tensor:
        """(N,3,H,W) in [0,1] -> what is released, of integers what they mean."""
        if self.building and isinstance(self.model, TransformedModel):
            return self.model.features(images)  # asked for the shape, before anything is measured
        return understood(self.model, self.model.release(images, generator=self.generator))


class _Predicted(nn.Module):
    """The server of one defense as the tail for the next."""

    def __init__(self, model: ProtectedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, released: Tensor) -> Tensor:
        """(N, ...) -> (N, classes)."""
        return self.model.predict(released)
