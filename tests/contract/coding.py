"""Defenses that hide nothing from a server: what they do to the features, it undoes before its tail."""

import abc
import math
from typing import ClassVar

import torch

from dpbench import Defense, ProtectedModel


class CodedModel(ProtectedModel):
    """Releases `encode(features)`; the server starts with `decode` of that."""

    def __init__(self, split, code):
        super().__init__(split)
        self.code = code

    def transform(self, features, *, generator=None):
        return self.code.encode(features.contiguous(), generator)

    def predict(self, released):
        return super().predict(self.code.decode(released))


class Coded(Defense):
    """A code, its inverse, and nothing to fit."""

    @abc.abstractmethod
    def encode(self, features, generator):
        """What is released."""

    @abc.abstractmethod
    def decode(self, released):
        """The features, or nearly."""

    def build(self, split):
        return CodedModel(split, self)


def seeded(seed):
    return torch.Generator().manual_seed(int(seed))


def fixed(features, draw=torch.randn):
    """The same numbers for every image, (1, ...)."""
    return draw(features.shape[1:], generator=seeded(1))[None]


def rounded(features):
    """The features as whole numbers from 0 to 255."""
    return (features * 32 + 128).round().clamp(0, 255)


def unrounded(codes):
    return (codes - 128) / 32


def per_image(change, *tensors):
    return torch.stack([change(*rows) for rows in zip(*tensors, strict=True)])


class Tiny(Coded):
    """Features on a scale on which a careless epsilon is larger than all of them."""

    name: ClassVar[str] = "tiny"

    def encode(self, features, generator):
        return features * 1e-20

    def decode(self, released):
        return released * 1e20


class Spikes(Coded):
    """A few values that drown all others in any mean."""

    name: ClassVar[str] = "spikes"

    def encode(self, features, generator):
        return torch.where(torch.rand(features.shape, generator=generator) < 0.003, 1e6, features)

    def decode(self, released):
        return torch.where(released > 1e5, 0, released)


class Lattice(Coded):
    """Random multiples of 64, which the server takes off."""

    name: ClassVar[str] = "lattice"

    def encode(self, features, generator):
        return features + 64 * torch.randint(-500, 500, features.shape, generator=generator)

    def decode(self, released):
        return (released + 32).remainder(64) - 32


class Below(Coded):
    """Features below the resolution of float32."""

    name: ClassVar[str] = "below"

    def encode(self, features, generator):
        return 1 + 1e-11 * features.double()

    def decode(self, released):
        return ((released.double() - 1) * 1e11).float()


class KeyedByItself(Coded):
    """An order that the values themselves give, whatever order they are in."""

    name: ClassVar[str] = "keyed-by-itself"

    def order(self, row):
        return torch.randperm(row.numel(), generator=seeded(row.sum()))

    def encode(self, features, generator):
        return per_image(lambda row: row.flatten()[self.order(row)].view_as(row), rounded(features))

    def decode(self, released):
        return unrounded(per_image(lambda row: row.flatten()[self.order(row).argsort()].view_as(row), released))


class KeyInAChannel(Coded):
    """An order and signs drawn for every release, whose seed is in its first value."""

    name: ClassVar[str] = "key-in-a-channel"

    def change(self, row, seed, backwards):
        key = seeded(seed)
        order, signs = torch.randperm(row.numel(), generator=key), torch.randn(row.numel(), generator=key).sign()
        flat = row.flatten().clone()
        if backwards:
            flat[0] = 0
            flat = flat[order.argsort()] * signs
        else:
            flat = (flat * signs)[order]
            flat[0] = seed
        return flat.view_as(row)

    def encode(self, features, generator):
        seeds = torch.randint(1 << 16, (len(features),), generator=generator).float()
        return per_image(lambda row, seed: self.change(row, seed, False), features, seeds)

    def decode(self, released):
        return per_image(lambda row: self.change(row, row.flatten()[0], True), released)


class KeyedNoise(Coded):
    """Noise a hundred times as large as the features, whose seed is in the first value."""

    name: ClassVar[str] = "keyed-noise"

    def noise(self, row, seed):
        noise = 100 * torch.randn(row.shape, generator=seeded(seed))
        noise.flatten()[0] = 0
        return noise

    def encode(self, features, generator):
        seeds = torch.randint(1 << 16, (len(features),), generator=generator).float()
        released = features.clone()
        released.flatten(1)[:, 0] = seeds
        return per_image(lambda row, seed: row + self.noise(row, seed), released, seeds)

    def decode(self, released):
        return per_image(lambda row: row - self.noise(row, row.flatten()[0]), released)


class Feistel(Coded):
    """One half of the channels moves the other by a wild function of it."""

    name: ClassVar[str] = "feistel"

    def wild(self, half):
        return 50 * torch.sin(1000 * half)

    def encode(self, features, generator):
        left, right = ((features * 256).round() / 256).chunk(2, 1)
        left = left + self.wild(right)
        return torch.cat([left, right + self.wild((left * 8).round() / 8)], 1)

    def decode(self, released):
        left, right = released.chunk(2, 1)
        right = right - self.wild((left * 8).round() / 8)
        return torch.cat([left - self.wild((right * 256).round() / 256), right], 1)


class Exponential(Coded):
    """Most of what is released is in few values."""

    name: ClassVar[str] = "exponential"

    def encode(self, features, generator):
        return torch.exp(3 * features)

    def decode(self, released):
        return torch.log(released) / 3


class Pattern(Coded):
    """Another fixed offset and scale at every position."""

    name: ClassVar[str] = "pattern"

    def encode(self, features, generator):
        return features * torch.exp(3 * fixed(features)) + 100 * fixed(features)

    def decode(self, released):
        return (released - 100 * fixed(released)) / torch.exp(3 * fixed(released))


class Xor(Coded):
    """8-bit values, each XOR its neighbour and a fixed key."""

    name: ClassVar[str] = "xor"

    def key(self, features):
        return (fixed(features, torch.rand) * 256).long()

    def encode(self, features, generator):
        codes = rounded(features).long() ^ self.key(features)
        return torch.cat([codes[:, :1], codes[:, 1:] ^ codes[:, :-1]], 1).float()

    def decode(self, released):
        codes = [code for code in released.long().unbind(1)]
        for place in range(1, len(codes)):
            codes[place] = codes[place] ^ codes[place - 1]
        return unrounded((torch.stack(codes, 1) ^ self.key(released)).float())


class Shuffle(Coded):
    """All values in one secret order, rounded."""

    name: ClassVar[str] = "shuffle"

    def order(self, features):
        return torch.randperm(math.prod(features.shape[1:]), generator=seeded(2))

    def encode(self, features, generator):
        return rounded(features).flatten(1)[:, self.order(features)].view_as(features)

    def decode(self, released):
        return unrounded(released.flatten(1)[:, self.order(released).argsort()].view_as(released))


class CarriedSigns(Coded):
    """Random signs, each told by whether its value is even."""

    name: ClassVar[str] = "carried-signs"

    def encode(self, features, generator):
        negative = torch.randint(2, features.shape, generator=generator).float()
        return (2 * rounded(features) + negative + 2) * (1 - 2 * negative)

    def decode(self, released):
        negative = released.abs().remainder(2)
        return unrounded((released.abs() - negative - 2) / 2)


class LogWarp(Coded):
    """Every value by its logarithm, with the scale of small ones stretched."""

    name: ClassVar[str] = "log-warp"

    def encode(self, features, generator):
        return (features.abs() * 1e6).log1p() * features.sign()

    def decode(self, released):
        return released.abs().expm1() / 1e6 * released.sign()


class Rows(KeyInAChannel):
    """A server that takes one image at a time, through numpy."""

    name: ClassVar[str] = "rows"

    def build(self, split):
        return RowsModel(split, self)


class RowsModel(CodedModel):
    def predict(self, released):
        features = [torch.from_numpy(self.code.decode(row[None]).numpy()) for row in released]
        return torch.cat([self.split.server_tail(row) for row in features])


CODES = {code.name: code for code in Coded.__subclasses__()}
