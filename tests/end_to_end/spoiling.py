"""Plug-ins for test_plugin_borders: they spoil what they are lent, and keep what would not travel."""

from typing import ClassVar

import torch
from torch import nn

from dpbench import AdditiveNoise, Attack, Defense, ProtectedModel

CALLS = []


class Model(ProtectedModel):
    scale = 1.0

    def transform(self, features, *, generator=None):
        return features * self.scale


class Plain(Defense):
    """Nothing."""

    name: ClassVar[str] = "plain"

    def build(self, split):
        return Model(split)


class Posterise(Plain):
    """Works in place on what it is given."""

    class Model(ProtectedModel):
        def release(self, images, *, generator=None):
            images.data.mul_(3).round_().div_(3)
            return self.features(images)

    def build(self, split):
        return self.Model(split)


class Doodles(Plain):
    """Draws on the private images."""

    def fit(self, model, private, *, generator, progress):
        private.images.data[3].zero_()


class Mirrors(Plain):
    def fit(self, model, private, *, generator, progress):
        private.images.numpy()[:] = private.images.flip(3).numpy()


class Relabels(Plain):
    """Its labels are its own copy."""

    def fit(self, model, private, *, generator, progress):
        private.labels.zero_()


class Attribute(Plain):
    def fit(self, model, private, *, generator, progress):
        model.scale = 3.0


class Nested(Plain):
    def fit(self, model, private, *, generator, progress):
        model.extra["scale"].append(torch.tensor(3.0))

    def build(self, split):
        model = Model(split)
        model.extra = {"scale": []}
        return model


class OnClass(Plain):
    def fit(self, model, private, *, generator, progress):
        type(model).scale = 3.0
        type(model).other = 3.0


class Global(Plain):
    def fit(self, model, private, *, generator, progress):
        CALLS.append(3.0)


class Itself(Plain):
    _scale: float = 1.0

    def fit(self, model, private, *, generator, progress):
        self._scale = 3.0


class Closure(Plain):
    def build(self, split):
        model, scale = Model(split), [1.0]
        model.scaled = lambda features: features * scale[0]
        model.change = lambda: scale.__setitem__(0, 3.0)
        return model

    def fit(self, model, private, *, generator, progress):
        model.change()


class Hook(Plain):
    def fit(self, model, private, *, generator, progress):
        model.split.client_head.register_forward_hook(lambda module, given, out: out * 3)


class Submodule(Plain):
    def fit(self, model, private, *, generator, progress):
        model.extra = nn.Linear(2, 2)


class Volatile(Plain):
    def build(self, split):
        model = Model(split)
        model.register_buffer("mean", torch.zeros(1), persistent=False)
        return model

    def fit(self, model, private, *, generator, progress):
        model.mean += 3


class Method(Plain):
    def fit(self, model, private, *, generator, progress):
        model.transform = lambda features, generator=None: features * 3


class Elsewhere(Plain):
    """Where nobody looks: in the network that dpbench made."""

    def fit(self, model, private, *, generator, progress):
        model.split.client_head[0].std = model.split.client_head[0].std * 3
        model.split.unseen = 3.0

    class Model(ProtectedModel):
        def transform(self, features, *, generator=None):
            return features * getattr(self.split, "unseen", 1.0)

    def build(self, split):
        return self.Model(split)


class Buffers(Plain):
    """New, resized, and of another type: all of them travel."""

    class Model(ProtectedModel):
        def __init__(self, split):
            super().__init__(split)
            self.register_buffer("resized", torch.zeros(0))
            self.register_buffer("unset", None)
            self.plain = None
            self.table = nn.Parameter(torch.zeros(1))

        def transform(self, features, *, generator=None):
            return features * self.resized.mean() * self.unset * self.new * self.plain * self.table.mean()

    def build(self, split):
        return self.Model(split)

    def fit(self, model, private, *, generator, progress):
        model.resized = torch.full((3,), 2.0)
        model.unset = torch.tensor(2.0)
        model.register_buffer("new", torch.tensor(2.0))
        del model.plain
        model.register_buffer("plain", torch.tensor(2.0))
        model.table = nn.Parameter(torch.full((2, 2), 2.0))


class Claims(Plain):
    """Says more noise than it adds."""

    class Model(ProtectedModel):
        def transform(self, features, *, generator=None):
            return features + 0.01 * torch.randn(features.shape, generator=generator)

        def noise(self):
            return AdditiveNoise("gaussian", 10.0)

    def build(self, split):
        return self.Model(split)


class Switches(Plain):
    """Leaves the process as nobody wants it."""

    def leave(self):
        torch.set_default_dtype(torch.float64)
        torch._C._set_grad_enabled(False)
        torch.autocast("cpu", torch.bfloat16).__enter__()
        torch.manual_seed(3)

    def build(self, split):
        self.leave()
        return Model(split)

    def fit(self, model, private, *, generator, progress):
        self.leave()


class Guess(Attack):
    """What is released, as a picture."""

    name: ClassVar[str] = "guess"
    needs = "weights"

    def reconstruct(self, seen, *, generator):
        known = seen.client.release(seen.auxiliary.images[:8])
        nearest = (seen.released.flatten(1)[:, None] - known.flatten(1)).square().sum(2).argmin(1)
        return seen.auxiliary.images[:8][nearest]


class Spoils(Guess):
    """Works in place on what it sees."""

    def reconstruct(self, seen, *, generator):
        images = super().reconstruct(seen, generator=generator)
        seen.released.sub_(3).div_(100)
        seen.auxiliary.labels.zero_()
        return images
