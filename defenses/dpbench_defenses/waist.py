"""A cheap waist: the client sends a short code, and the server writes features back from it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from dpbench.contract.defense import AdditiveNoise, Defense, ProtectedModel, SplitModel
from dpbench.contract.feature_transform import feature_batches
from dpbench.contract.images import LabelledImages
from dpbench.machine.devices import autocast
from dpbench.models.training import augment, one_cycle
from dpbench.plugins.registry import register
from dpbench.service.tail_stages import activations_and_logits, stages_of
from dpbench.toolkit.calibration import along_channels, channel_scales
from dpbench.toolkit.inversion import channel_axis
from dpbench_defenses._dpm_networks import Permute, channels_last
from dpbench_defenses._dpm_training import equivalence, frozen, initialise, mismatch, refuse_layout
from dpbench_defenses._halves import device_of, feature_shape
from dpbench_defenses._writing_back import writer

FIRST, SECOND = 64, 128
"""Channels of the encoder's two convolutions."""

ONE_POSITION = 2
"""Of maps of this side or less the first convolution leaves one position, which the second convolves with a stride:
bf16 kernels of some CPUs read memory there that nobody wrote."""

TOKEN_CHANNELS = 16
"""What the encoder keeps of each token."""


def encoder(shape: tuple[int, ...], values: int) -> tuple[nn.Sequential, tuple[int, ...]]:
    """Features (N, *shape) -> code (N, values), and the shape of what the server lays a code out as.

    For maps two 3x3 convolutions of stride 2, each with batch norm, and a linear layer; for tokens a linear layer each,
    then one of all; for flat features one linear layer.
    """
    if len(shape) == 1:
        return nn.Sequential(nn.Linear(shape[0], values)), (values,)
    if len(shape) == 2:
        kept = shape[0] * TOKEN_CHANNELS
        each = nn.Linear(shape[1], TOKEN_CHANNELS)
        return nn.Sequential(each, nn.ReLU(), nn.Flatten(), nn.Linear(kept, values)), (shape[0], TOKEN_CHANNELS)
    if channels_last(shape):
        within, laid = encoder((shape[2], *shape[:2]), values)
        return nn.Sequential(Permute(0, 3, 1, 2), *within), laid
    height, breadth = (math.ceil(math.ceil(side / 2) / 2) for side in shape[1:])
    layers = nn.Sequential(
        nn.Conv2d(shape[0], FIRST, 3, stride=2, padding=1),
        nn.BatchNorm2d(FIRST),
        nn.ReLU(),
        nn.Conv2d(FIRST, SECOND, 3, stride=2, padding=1),
        nn.BatchNorm2d(SECOND),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(SECOND * height * breadth, values),
    )
    return layers, (SECOND, height, breadth)


class WaistModel(ProtectedModel):
    """The split model that releases codes, and whose server writes features back from them.

    Args:
        split: its features are maps (N,C,H,W) or (N,H,W,C), tokens (N,L,C), or flat (N,D).
        values: of a code.
        noise: standard deviation of the noise on each value.
        bits: of a value; 0 for float32.

    Raises:
        DpbenchError: features of another layout.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, split: SplitModel, values: int, noise: float, bits: int) -> None:
        super().__init__(split)
        self.noise_std = noise
        self.top = 2**bits - 1
        shape = feature_shape(split)
        self.in_fp32 = len(shape) == 3 and min(shape[:2] if channels_last(shape) else shape[1:]) <= ONE_POSITION
        refuse_layout("waist", shape, split.split_point)
        self.channel_dim = channel_axis((1, *shape))
        with torch.device(device_of(split)):
            self.encoder, laid = encoder(shape, values)
            self.decoder = nn.Sequential(
                nn.Linear(values, math.prod(laid)), nn.ReLU(), nn.Unflatten(1, laid), writer(laid, shape)
            )
            width = shape[self.channel_dim - 1]
            self.register_buffer("mean", torch.zeros(width))
            self.register_buffer("std", torch.ones(width))

    def _scales(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return (
            along_channels(self.mean, features, self.channel_dim),
            along_channels(self.std, features, self.channel_dim),
        )

    def code(self, features: Tensor) -> Tensor:
        """Features (N, ...) -> codes (N, values) without noise; within [-1,1] where they are sent as integers."""
        mean, std = self._scales(features)
        with torch.autocast(features.device.type, enabled=False) if self.in_fp32 else contextlib.nullcontext():
            code: Tensor = self.encoder((features - mean) / std)
        return code.tanh() if self.top else code

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Features (N, ...) -> codes (N, values), noise drawn anew at every release, or uint8 steps of a grid."""
        code = self.code(features.float())
        if self.top:
            steps: Tensor = ((code + 1) * (self.top / 2)).round().to(torch.uint8)
            return steps
        if self.noise_std:
            code = code + self.noise_std * torch.randn(
                code.shape, generator=generator, dtype=torch.float32, device=code.device
            )
        return code.to(features.dtype)

    def quantisation(self) -> tuple[float, float]:
        """Steps of 2 / (2**bits - 1) over [-1,1]."""
        return (2 / self.top, self.top / 2) if self.top else (1.0, 0.0)

    def location(self, images: Tensor) -> Tensor:
        """The code (N, values) without its noise."""
        return self.code(self.features(images).float())

    def noise(self) -> AdditiveNoise | None:
        """Gaussian, of the same scale for every value of a code."""
        return AdditiveNoise("gaussian", self.noise_std) if self.noise_std else None

    def written(self, code: Tensor) -> Tensor:
        """Server side: codes (N, values) -> features (N, ...)."""
        features = self.decoder(code)
        mean, std = self._scales(features)
        written: Tensor = features * std + mean
        return written

    def predict(self, released: Tensor) -> Tensor:
        """Codes, as they were sent -> logits (N, classes)."""
        if not released.is_floating_point():
            scale, zero_point = self.quantisation()
            released = (released.float() - zero_point) * scale
        return super().predict(self.written(released))


@register
class Waist(Defense):
    """The client encodes its features into a short code, which the server decodes and passes on to its tail.

    Ours. What a code does not carry no attacker learns to read. Unlike the waist of `dpm` this one is cheap: two
    convolutions of stride 2 and a linear layer on the client, 0.92 million multiply-adds at layer1 of resnet10t with
    32x32 pixels; the decoder belongs to the server, who may use it to attack. Both are trained by KL to the clean
    logits plus cross-entropy plus `match_weight` times the change of the activations of the tail's last stage (their
    mean squared change over their variance), on images that are flipped and shifted; head and tail stay as they are.

    With `noise` the release is the code plus Gaussian noise of that standard deviation; `power` times a code's squared
    norm joins the loss, or the code would drown the noise. Then a release tells at most 1/2 log2 det(I + Cov / noise^2)
    bits of the image, Cov the covariance of codes: the maximum entropy of a Gaussian (Cover & Thomas, section 9.4).
    With `bits` a code's values go through tanh and are sent as integers, trained straight through the rounding.
    Deterministic codes name their image among candidates, whatever a reconstruction shows.
    """

    name: ClassVar[str] = "waist"
    version: ClassVar[int] = 2
    only_in: ClassVar[str] = "inference"

    values: int = Field(64, ge=1, le=65536, description="values of a code")
    noise: float = Field(0.0, ge=0, le=1000, description="std of Gaussian noise on each value of a code; 0 for none")
    power: float = Field(3e-3, ge=0, le=100, description="weight of a code's squared norm in the loss, with noise")
    match_weight: float = Field(1.0, ge=0, le=100, description="of the change at the tail's last stage, in the loss")
    bits: int = Field(0, ge=0, le=8, description="bits of each value; 0 sends float32 (not with noise)")
    epochs: int = Field(16, ge=1, le=1000, description="over the private images")
    learning_rate: float = Field(4e-3, gt=0, le=1, description="peak of the one-cycle schedule, AdamW")
    weight_decay: float = Field(0.1, ge=0, le=10, description="of AdamW")
    batch_size: int = Field(64, ge=2, le=4096, description="images per step")

    @model_validator(mode="after")
    def _one_of_both(self) -> Waist:
        if self.noise and self.bits:
            raise ValueError("noise and bits are both given; noise on a grid of integers is not stated, set one to 0")
        return self

    def build(self, split: SplitModel) -> WaistModel:
        """For maps, tokens or flat features; the weights of both halves mean nothing before `fit`.

        Raises:
            DpbenchError: features of another layout.
        """
        with torch.random.fork_rng(devices=[]):
            return WaistModel(split, self.values, self.noise, self.bits)

    def fit(
        self,
        model: ProtectedModel,
        private: LabelledImages,
        *,
        generator: torch.Generator,
        progress: Callable[[str], None],
    ) -> None:
        """Train encoder and decoder together; head and tail stay as they are."""
        assert isinstance(model, WaistModel)
        device = private.images.device
        progress("measuring the features")
        mean, std = channel_scales(feature_batches(model, private, generator=generator), model.channel_dim)
        model.mean.copy_(mean)
        model.std.copy_(std)
        halves = nn.ModuleList([model.encoder, model.decoder]).train().requires_grad_(True)
        initialise(halves, generator)
        steps_per_epoch = math.ceil(len(private) / private.training_batch(self.batch_size))
        steps_per_epoch = max(1, min(steps_per_epoch, len(private) // 2))  # batch norm wants two images
        optimizer = torch.optim.AdamW(halves.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        schedule = one_cycle(optimizer, self.learning_rate, steps=self.epochs * steps_per_epoch, rise=0.15)
        stages = stages_of(model.split)[-1:] if self.match_weight else ()
        with frozen(model.split):
            for epoch in range(self.epochs):
                progress(f"epoch {epoch + 1}/{self.epochs}")
                order = torch.randperm(len(private), generator=generator, device=device)
                for chosen in order.tensor_split(steps_per_epoch):
                    images = augment(private.images[chosen], generator=generator)
                    with torch.no_grad(), autocast(device):
                        clean = model.features(images)
                        kept, clean_logits = activations_and_logits(model.split, clean, stages)
                    with autocast(device):
                        code = model.code(clean.float())
                        written = model.written(self._sent(model, code, generator))
                        found, logits = activations_and_logits(model.split, written, stages)
                    loss = equivalence(logits.float(), clean_logits.float())
                    loss = loss + F.cross_entropy(logits.float(), private.labels[chosen])
                    if stages:
                        loss = loss + self.match_weight * mismatch(found, kept)
                    if self.noise:
                        loss = loss + self.power * code.float().square().sum(1).mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
        optimizer.zero_grad()
        halves.eval()

    def _sent(self, model: WaistModel, code: Tensor, generator: torch.Generator) -> Tensor:
        """The code as the server reads it, differentiable: with noise, or rounded with the gradient passed through."""
        if model.top:
            scale, zero_point = model.quantisation()
            rounded = ((code / scale + zero_point).round() - zero_point) * scale
            return code + (rounded - code).detach()
        return code + self.noise * torch.randn(code.shape, generator=generator, device=code.device)
