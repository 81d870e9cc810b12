"""What every defense keeps to: the engine's own checks of a release, and a few that would take a run to be noticed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)

from dpbench.border.lending import Lent
from dpbench.cells.white_box import WhiteBox
from dpbench.contract.defense import Defense, ProtectedModel
from dpbench.machine.randomness import derive_seed, seeded
from dpbench.metrics.guarantees import guarantees_of
from dpbench.service import fitting
from dpbench.service.learned import restore
from dpbench.service.release import checked_features, checked_release
from dpbench.service.same_release import assert_same_in_other_batches, assert_same_release
from dpbench.service.taps import TappedServer
from dpbench.testing.rules import expect, is_documented
from dpbench.testing.tiny import CLASSES, CPU, LAYOUTS, TinyNetwork, pictures

PRIVATE = 64
RELEASED = 12

PRETENDED = "cuda"
"""A device that need not be there: `FakeTensorMode` computes shapes and types alone."""

UNKNOWABLE = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException)
"""Raised where code looks at values: on a pretended device there are none."""


def _silent(text: str) -> None:
    return None


class CheckedDefense:
    """A defense, fitted at most once on each layout of features."""

    def __init__(self, defense: Defense) -> None:
        self.defense = defense
        self._learned: dict[str, fitting.State] = {}

    def again(self) -> Defense:
        """The same defense, another instance: nothing that one keeps reaches the other."""
        return copy.deepcopy(self.defense)

    def learned(self, layout: str) -> fitting.State:
        """What it learns on private images, as the engine stores it."""
        if layout not in self._learned:
            private = pictures(PRIVATE, seed="private")
            lent = Lent(private, f"defense {self.defense.name!r}", "fit", lambda: None)
            self._learned[layout], _ = fitting.fit(TinyNetwork(layout), self.again, lent.images, CPU, _silent)
            lent.check()
        return self._learned[layout]

    def model(self, layout: str) -> ProtectedModel:
        """The protected model as a run assembles it: new, fitted, frozen, in eval mode."""
        return fitting.assemble(TinyNetwork(layout), self.again(), self.learned(layout), CPU)

    def models(self) -> Iterator[tuple[str, ProtectedModel]]:
        """One for each layout of features."""
        for layout in LAYOUTS:
            yield f"features as {layout}", self.model(layout)


@torch.no_grad()
def released(model: ProtectedModel, seed: int = 0) -> Tensor:
    """(12, ...) of the same images each time."""
    images = pictures(RELEASED, seed="released").images[:]
    return checked_release(model.release(images, generator=_generator(seed)), RELEASED)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator(CPU).manual_seed(derive_seed("release", seed))


def documented(checked: CheckedDefense) -> None:
    """The class has a docstring, each parameter a description."""
    is_documented(type(checked.defense))


def what_fit_learns_travels(checked: CheckedDefense) -> None:
    """All that `fit` learns is in parameters and buffers, and the private images stay as they were."""
    for layout in LAYOUTS:
        checked.learned(layout)


def fit_draws_from_its_generator(checked: CheckedDefense) -> None:
    """Nothing but its generator decides what `fit` learns, and torch's global one is left alone."""
    first, second = (_fitted(checked.again(), seed) for seed in (1, 2))
    for name, value in first.items():
        expect(
            torch.equal(value, second[name]),
            f"torch's global generator decides {name!r}; draw with `generator=generator` in fit, initial weights too",
        )


def _fitted(defense: Defense, seed: int) -> fitting.State:
    """The state after a fit, torch's global generator seeded with anything."""
    with seeded(seed, CPU):
        before = torch.get_rng_state()
        model = defense.build(TinyNetwork().split()).eval()
        expect(
            torch.equal(before, torch.get_rng_state()),
            "build draws from torch's global generator; make modules under torch.random.fork_rng(devices=[]), and "
            "give them their weights in fit",
        )
        defense.fit(model, pictures(PRIVATE, seed="private"), generator=_generator(0), progress=_silent)
        expect(
            torch.equal(before, torch.get_rng_state()),
            "fit draws from torch's global generator; draw with `generator=generator`",
        )
    return model.state_dict()


def release_is_plain_and_finite(checked: CheckedDefense) -> None:
    """A release is a plain, finite tensor with one row for each image, from which the server predicts."""
    for where, model in checked.models():
        out = checked_features(released(model))
        logits = model.predict(out)
        expect(
            logits.shape == (RELEASED, CLASSES),
            f"{where}: predict gives {tuple(logits.shape)} of a release; expected {(RELEASED, CLASSES)}",
        )
        expect(bool(logits.isfinite().all()), f"{where}: predict gives NaN or infinite logits")
        without = model.release(pictures(2, seed="released").images[:])
        checked_features(checked_release(without, 2))  # no generator: torch's own


def transform_keeps_the_form(checked: CheckedDefense) -> None:
    """`transform` returns features in the shape, dtype and device in which it was given them."""
    for where, model in checked.models():
        features = model.features(pictures(4, seed="released").images[:])
        for given in (features, features.bfloat16()):
            out = model.transform(given, generator=_generator(0))
            if not out.is_floating_point():
                continue  # sent as integers: `predict` knows what they mean
            wanted, came = (f"{t.dtype} on {t.device}" for t in (given, out))
            expect(wanted == came, f"{where}: {came} came of {wanted}; end with `.to(features.dtype)`")
            own_server = type(model).predict is not ProtectedModel.predict
            expect(
                own_server or out.shape == given.shape,
                f"{where}: {tuple(out.shape)} came of {tuple(given.shape)}, which the server's half does not take; "
                "keep the shape, or override `predict`",
            )


def release_depends_on_image_and_generator(checked: CheckedDefense) -> None:
    """What is released of an image depends on it and on the generator alone: not on gradients, calls or the batch."""
    images = pictures(RELEASED, seed="released").images[:]
    for _, model in checked.models():
        before = assert_same_release(model, images, seed=derive_seed("same"))
        assert_same_in_other_batches(model, images, seed=derive_seed("batches"))
        assert_same_release(model, images, seed=derive_seed("same"), before=before)


def noise_is_fresh(checked: CheckedDefense) -> None:
    """What is random in a release is drawn anew at every release."""
    for where, model in checked.models():
        if torch.equal(released(model, 1), released(model, 2)):
            continue
        images, generator = pictures(4, seed="released").images[:], _generator(0)
        with torch.no_grad():
            first, second = (model.release(images, generator=generator) for _ in range(2))
        expect(
            not torch.equal(first, second),
            f"{where}: two releases in a row hold the same noise; draw it in transform with `generator=generator`",
        )


def stated_noise_is_added(checked: CheckedDefense) -> None:
    """The noise that a model states is the noise that it adds to its location: guarantees rest on it."""
    images = pictures(8, seed="released").images[:]
    for where, model in checked.models():
        noise = model.noise()
        found = guarantees_of(model, images, releases=2, generator=_generator(0))
        expect((found is None) == (noise is None or noise.scale == 0), f"{where}: no guarantee follows from {noise}")


def clients_can_be_copied(checked: CheckedDefense) -> None:
    """A white-box attacker can hold a copy of the client that releases the same."""
    images = pictures(4, seed="released").images[:]
    for where, model in checked.models():
        with torch.no_grad():
            one, other = (
                client.release(images, generator=_generator(0)) for client in (WhiteBox(model), WhiteBox(model))
            )
        expect(torch.equal(one, other), f"{where}: two copies of the client release different features")


def the_server_can_be_watched(checked: CheckedDefense) -> None:
    """`predict` takes the same steps for all images, so that what it computes on the way can be looked at."""
    for where, model in checked.models():
        out = released(model)
        if out.is_floating_point():
            expect(len(TappedServer(model).activations(out)) > 0, f"{where}: predict computes nothing from the release")


def any_device(checked: CheckedDefense) -> None:
    """No device is named: tensors are made where the features are."""
    for layout in LAYOUTS:
        learned = checked.learned(layout)
        try:
            out, logits = _on_a_pretended_device(checked.again(), layout, learned)
        except UNKNOWABLE:
            continue
        devices = {str(t.device.type) for t in (out, logits)}
        expect(devices == {PRETENDED}, f"features as {layout}: a release on a GPU comes out on {' and '.join(devices)}")


def _on_a_pretended_device(defense: Defense, layout: str, learned: fitting.State) -> tuple[Tensor, Tensor]:
    with FakeTensorMode(), torch.device(PRETENDED), torch.no_grad():
        model = defense.build(TinyNetwork(layout).split()).eval()
        restore(model, {name: torch.empty(value.shape, dtype=value.dtype) for name, value in learned.items()})
        out = model.release(torch.rand(2, *TinyNetwork.shape))
        return out, model.predict(out)


RULES: tuple[Callable[[CheckedDefense], None], ...] = (
    documented,
    what_fit_learns_travels,
    fit_draws_from_its_generator,
    release_is_plain_and_finite,
    transform_keeps_the_form,
    release_depends_on_image_and_generator,
    noise_is_fresh,
    stated_noise_is_added,
    clients_can_be_copied,
    the_server_can_be_watched,
    any_device,
)
"""In this order."""
