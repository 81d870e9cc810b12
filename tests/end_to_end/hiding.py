"""Defenses for test_sanity: releases that carry everything behind a secret, nothing, or somebody else's features."""

import abc
from typing import ClassVar

import torch
from torch import nn

from dpbench import Defense, ProtectedModel
from dpbench.contract.feature_transform import feature_batches
from dpbench.toolkit.calibration import mean_and_std


class SecretModel(ProtectedModel):
    """Standardised features of layer1, (N,64,8,8), through a secret network and back to their scale."""

    def __init__(self, split, secret):
        super().__init__(split)
        self.secret = secret
        self.register_buffer("mean", torch.zeros(64, 1, 1))
        self.register_buffer("std", torch.ones(64, 1, 1))

    def transform(self, features, *, generator=None):
        return self.secret((features - self.mean) / self.std)


class Secret(Defense):
    """Draws a secret that has an inverse."""

    @abc.abstractmethod
    def network(self):
        """The secret, as a module."""

    def build(self, split):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return SecretModel(split, self.network())

    def fit(self, model, private, *, generator, progress):
        mean, std = mean_and_std(feature_batches(model, private, generator=generator), channel_dim=1)
        model.mean.copy_(mean.view(-1, 1, 1))
        model.std.copy_(std.clamp_min(1e-3).view(-1, 1, 1))


class Mix(nn.Module):
    """A fixed linear map of the channels, and a shift."""

    def __init__(self, matrix, shift=None):
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.register_buffer("shift", torch.zeros(64, 1, 1) if shift is None else shift)

    def forward(self, x):
        return torch.einsum("ij,njhw->nihw", self.matrix, x) + self.shift


def orthogonal():
    return nn.init.orthogonal_(torch.empty(64, 64))


class Affine(Secret):
    """A secret rotation, which may swap and turn signs, then scales over four orders of magnitude, and shifts."""

    name: ClassVar[str] = "affine"

    def network(self):
        return Mix(torch.diag(10 ** (4 * torch.rand(64) - 2)) @ orthogonal(), torch.randn(64, 1, 1))


class Coupling(nn.Module):
    """Dinh et al. 2017, Density estimation using Real NVP: one half of the channels scales and shifts the other."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 64, 3, padding=1))

    def forward(self, x):
        kept, changed = x.chunk(2, 1)
        scale, shift = self.net(kept).chunk(2, 1)
        return torch.cat([kept, changed * scale.tanh().exp() + 2 * shift], 1)


class Deep(Secret):
    """A secret network of three coupling layers with rotations between them: deep, and invertible."""

    name: ClassVar[str] = "deep"

    def network(self):
        return nn.Sequential(*(layer for _ in range(3) for layer in (Mix(orthogonal()), Coupling())))


class SilentModel(ProtectedModel):
    def transform(self, features, *, generator=None):
        return torch.zeros_like(features)


class Silent(Defense):
    """Releases nothing."""

    name: ClassVar[str] = "silent"

    def build(self, split):
        return SilentModel(split)


class RolledModel(ProtectedModel):
    def transform(self, features, *, generator=None):
        return features.roll(1, 0)


class Rolled(Defense):
    """Releases the features of another image."""

    name: ClassVar[str] = "rolled"

    def build(self, split):
        return RolledModel(split)


class HoarderModel(ProtectedModel):
    """Keeps the right answers where only the server should look, and releases nothing."""

    answers = None

    def release(self, images, *, generator=None):
        features = self.features(images)
        self.answers = self.split.server_tail(features)
        return torch.zeros_like(features)

    def predict(self, released):
        return super().predict(released) if self.answers is None else self.answers[: len(released)]


class Hoarder(Defense):
    """Serves one thing to the task and another to the attacker."""

    name: ClassVar[str] = "hoarder"

    def build(self, split):
        return HoarderModel(split)


class TwoFacedModel(ProtectedModel):
    def transform(self, features, *, generator=None):
        return -features if torch.is_grad_enabled() else features


class TwoFaced(Defense):
    """Releases something else to a white-box attacker."""

    name: ClassVar[str] = "two-faced"

    def build(self, split):
        return TwoFacedModel(split)


class TiredModel(ProtectedModel):
    calls = 0

    def transform(self, features, *, generator=None):
        self.calls += 1
        return features if self.calls < 8 else features * 0.5


class Tired(Defense):
    """Releases something else after a while: to queries, not to victims."""

    name: ClassVar[str] = "tired"

    def build(self, split):
        return TiredModel(split)
