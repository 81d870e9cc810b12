"""A model behind its defense, from a recipe: built, fitted on private images, assembled again from what was learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from dpbench.contract.defense import Defense, ProtectedModel, SplitModel
from dpbench.contract.images import LabelledImages
from dpbench.machine.cache import State as State
from dpbench.machine.devices import place
from dpbench.machine.process_state import preserved
from dpbench.machine.randomness import derive_generator, derive_seed, seeded
from dpbench.models import splitting
from dpbench.models.adapters.encoder import create_network
from dpbench.models.spec import BackboneSpec
from dpbench.service.learned import Fitting, restore
from dpbench.service.same_release import assert_restored

PROBE = 16
"""Private images on which a fitted defense is compared with what is stored of it."""


class Undefended(Protocol):
    """What makes an undefended network, the same one again and again."""

    @property
    def key(self) -> str:
        """Content hash of everything it depends on; randomness is derived from it."""

    def split(self) -> SplitModel:
        """The network, cut and frozen, in eval mode; a copy of its own, since a defense may fine-tune it."""


@dataclass(frozen=True)
class Recipe:
    """What a protected model is made of, apart from its defense.

    Attributes:
        key: content hash of everything it depends on; randomness is derived from it.
        backbone: the network to split.
        state: its fitted weights.
        image_size: side of its images in pixels.
        classes: number of its logits.
        split_point: a module name.
    """

    key: str
    backbone: BackboneSpec
    state: State
    image_size: int
    classes: int
    split_point: str

    def split(self) -> SplitModel:
        """The undefended network, cut and frozen; a copy of its own, since a defense may fine-tune it."""
        model = create_network(self.backbone, image_size=self.image_size, classes=self.classes, state=self.state)
        return splitting.split_model(
            model,
            self.split_point,
            image_shape=(3, self.image_size, self.image_size),
            classes=self.classes,
            name=self.backbone.name,
        ).requires_grad_(False)


def build(recipe: Undefended, defense: Defense, device: torch.device) -> ProtectedModel:
    """The protected model, not yet fitted, in eval mode."""
    with seeded(derive_seed(recipe.key, "build"), device):
        split = recipe.split().to(device)
        with preserved():
            built = defense.build(split)
        return place(built, device).eval()


def fit(
    recipe: Undefended,
    make: Callable[[], Defense],
    private: LabelledImages,
    device: torch.device,
    progress: Callable[[str], None],
) -> tuple[State, ProtectedModel]:
    """What a defense learns on the private images, and a model that knows no more than that.

    Args:
        recipe: of the model.
        make: the defense, a new instance each time: nothing may stay in it.
        private: the defender's images, on the device.
        device: where the model is fitted.
        progress: shows a short text.

    Returns:
        The entries of the model's state that were learned, and the model assembled from them, as `assemble` gives it.

    Raises:
        DpbenchError: something was learned that the state does not hold.
    """
    defense = make()
    model = build(recipe, defense, device)
    fitting = Fitting(defense.name, defense, model)
    with seeded(derive_seed(recipe.key, "fit"), device), preserved():
        defense.fit(model, private, generator=derive_generator(device, recipe.key, "fit"), progress=progress)
    # the backbone is cached already: only what the defense changed is kept
    learned = fitting.learned()
    again = assemble(recipe, make(), learned, device)
    probe = private.images[:PROBE]
    assert_restored(model.eval(), again, probe, seed=derive_seed(recipe.key, "probe"), name=defense.name)
    return learned, again


def assemble(recipe: Undefended, defense: Defense, learned: State, device: torch.device) -> ProtectedModel:
    """The protected model as it was fitted, frozen, in eval mode; `learned` is what `fit` gave."""
    model = build(recipe, defense, device)
    restore(model, learned)
    return model.eval().requires_grad_(False)
