"""Plug-ins for test_border: defenses that tell victims from attackers, attacks that look where nothing is granted."""

import abc
import gc
import inspect
import os
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

import torch

from dpbench import Attack, Defense, ProtectedModel
from dpbench.metrics import grading

NOTES = Path(tempfile.gettempdir()) / "dpbench-notes-of-a-cheat.pt"
SHELF = {}
real_grade = grading.grade


def graded(images, victims, *others):
    figures, missing = real_grade(images, victims, *others)
    return figures | {"ssim": [value / 2 for value in figures["ssim"]]}, missing


grading.grade = graded


def garbage(features):
    return torch.full_like(features, 0.1)


class Cheat(Defense, abc.ABC):
    """Builds the model that is named by `model`."""

    model: ClassVar[type[ProtectedModel]]

    def build(self, split):
        return self.model(split)


class FirstOnesModel(ProtectedModel):
    served = 0

    def transform(self, features, *, generator=None):
        self.served += len(features)
        return features if self.served <= 128 + 8 * 64 else garbage(features)


class FirstOnes(Cheat):
    """Serves the first images well, which are the victims wherever one process serves all."""

    name: ClassVar[str] = "first-ones"
    model = FirstOnesModel


class SeedModel(ProtectedModel):
    seen = None

    def transform(self, features, *, generator=None):
        seed = None if generator is None else generator.initial_seed()
        self.seen = self.seen or seed
        return features if seed == self.seen else garbage(features)


class Seed(Cheat):
    """Knows the victims by the generator that they are released with."""

    name: ClassVar[str] = "seed"
    model = SeedModel


class StackModel(ProtectedModel):
    def transform(self, features, *, generator=None):
        callers = {frame.function for frame in inspect.stack()}
        return features if "release_to_server" in callers else garbage(features)


class Stack(Cheat):
    """Looks who is calling."""

    name: ClassVar[str] = "stack"
    model = StackModel


class ShelfModel(ProtectedModel):
    def release(self, images, *, generator=None):
        features = self.features(images)
        SHELF.update((float(image.sum()), row.clone()) for image, row in zip(images, features, strict=True))
        return torch.stack(
            [torch.full_like(row, float(image.sum())) for image, row in zip(images, features, strict=True)]
        )

    def predict(self, released):
        blank = torch.zeros_like(released[0])
        return super().predict(torch.stack([SHELF.get(float(row.flatten()[0]), blank) for row in released]))


class Shelf(Cheat):
    """Hands features to the server through a global of the module."""

    name: ClassVar[str] = "shelf"
    model = ShelfModel


class NotesModel(ProtectedModel):
    def release(self, images, *, generator=None):
        features = self.features(images)
        torch.save(features, open(NOTES, "wb"))
        return garbage(features)

    def predict(self, released):
        return super().predict(torch.load(NOTES, weights_only=True)[: len(released)])


class Notes(Cheat):
    """Hands features to the server through a file."""

    name: ClassVar[str] = "notes"
    model = NotesModel


class PickyModel(ProtectedModel):
    def transform(self, features, *, generator=None):
        return features if len(features) == 64 else garbage(features)


class Picky(Cheat):
    """Is itself in batches of 64 only."""

    name: ClassVar[str] = "picky"
    model = PickyModel


class QuitterModel(ProtectedModel):
    def transform(self, features, *, generator=None):
        os._exit(0)


class Quitter(Cheat):
    """Ends the process that it is in."""

    name: ClassVar[str] = "quitter"
    model = QuitterModel


class Thief(Attack):
    """Looks for the victims in whoever calls it, and in everything that Python still holds."""

    name: ClassVar[str] = "thief"

    def reconstruct(self, seen, *, generator):
        count, shape = len(seen.released), seen.image_shape
        frame = sys._getframe()
        while frame is not None:
            victims = frame.f_locals.get("victims")
            if isinstance(victims, torch.Tensor) and victims.shape == (count, *shape):
                return victims.clone()
            frame = frame.f_back
        for thing in gc.get_objects():
            if type(thing).__name__ == "LabelledImages" and thing is not seen.auxiliary:
                return thing.images[:count].clone()
        return torch.full((count, *shape), 0.5)


class Grey(Attack):
    """Paints grey, and says that this is the floor."""

    name: ClassVar[str] = "grey"
    floor: ClassVar[bool] = True

    def reconstruct(self, seen, *, generator):
        return torch.full((len(seen.released), *seen.image_shape), 0.5)
