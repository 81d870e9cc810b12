"""A model behind its defense, from a recipe: built, fitted on private images, assembled again from what was learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from dpbench import backbones, splitting
from dpbench.devices import place
from dpbench.randomness import derive_generator, derive_seed, seeded
from dpbench.specs import BackboneSpec
from dpbench.types import Defense, LabelledImages, ProtectedModel, SplitModel

State = dict[str, torch.Tensor]


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
        model = backbones.create_backbone(self.backbone, image_size=self.image_size, classes=self.classes)
        model.load_state_dict(self.state)
        return splitting.split_model(
            model,
            self.split_point,
            image_shape=(3, self.image_size, self.image_size),
            classes=self.classes,
            name=self.backbone.name,
        ).requires_grad_(False)


def build(recipe: Recipe, defense: Defense, device: torch.device) -> ProtectedModel:
    """The protected model, not yet fitted, in eval mode."""
    with seeded(derive_seed(recipe.key, "build"), device):
        return place(defense.build(recipe.split().to(device)), device).eval()


def fit(
    recipe: Recipe,
    defense: Defense,
    private: LabelledImages,
    device: torch.device,
    progress: Callable[[str], None],
) -> State:
    """What the defense learned on the private images: the entries of the model's state that it changed."""
    model = build(recipe, defense, device)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with seeded(derive_seed(recipe.key, "fit"), device):
        defense.fit(model, private, generator=derive_generator(device, recipe.key, "fit"), progress=progress)
    after = model.state_dict()
    return {name: value for name, value in after.items() if not torch.equal(value, before[name])}


def assemble(recipe: Recipe, defense: Defense, learned: State, device: torch.device) -> ProtectedModel:
    """The protected model as it was fitted, frozen, in eval mode; `learned` is what `fit` gave."""
    model = build(recipe, defense, device)
    model.load_state_dict({**model.state_dict(), **learned})
    return model.eval().requires_grad_(False)
