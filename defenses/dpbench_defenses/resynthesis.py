"""Resynthesis: features written back from noisy deeper activations of the public network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from dpbench.contract.defense import AdditiveNoise, Defense, ProtectedModel, SplitModel
from dpbench.contract.feature_transform import feature_batches
from dpbench.contract.images import LabelledImages
from dpbench.machine.devices import autocast
from dpbench.models.training import one_cycle
from dpbench.plugins.registry import register
from dpbench.service.tail_stages import activations, activations_and_logits, stage_named, stages_of
from dpbench.toolkit.calibration import along_channels, channel_scales, mean_and_std
from dpbench.toolkit.inversion import channel_axis
from dpbench_defenses._dpm_training import equivalence, frozen, initialise, mismatch, refuse_layout
from dpbench_defenses._halves import device_of, feature_shape
from dpbench_defenses._writing_back import writer

LEAST_STD = 1e-3
"""A channel of the code that hardly varies is not blown up beyond this."""


class Resynthesised(ProtectedModel):
    """The split model that releases features written back from a noisy code.

    Args:
        split: its features, and what the stage gives, are maps (N,C,H,W) or (N,H,W,C), tokens (N,L,C), or flat (N,D).
        stage: of the public tail, see `dpbench.service.tail_stages`.
        noise: standard deviation of the noise, relative to that of each channel of the code.
        coded: the noisy code itself is released, and the server writes features back from it.

    Raises:
        DpbenchError: features of another layout, or no such stage.
    """

    mean: Tensor
    std: Tensor
    code_mean: Tensor
    code_std: Tensor

    def __init__(self, split: SplitModel, stage: str | int, noise: float, *, coded: bool = False) -> None:
        super().__init__(split)
        self.coded = coded
        self.stage = stage_named(split, stage, who="resynthesis")
        self.noise_std = noise
        shape = feature_shape(split)
        refuse_layout("resynthesis", shape, split.split_point)
        with torch.no_grad():
            blank = torch.zeros(1, *split.image_shape, device=device_of(split))
            code_shape = tuple(activations(split, split.client_head(blank), [self.stage])[self.stage].shape[1:])
        refuse_layout("resynthesis", code_shape, self.stage)
        self.channel_dim, self.code_dim = channel_axis((1, *shape)), channel_axis((1, *code_shape))
        with torch.device(device_of(split)):
            self.writer = writer(code_shape, shape)
            for name, width in (("", shape[self.channel_dim - 1]), ("code_", code_shape[self.code_dim - 1])):
                self.register_buffer(f"{name}mean", torch.zeros(width))
                self.register_buffer(f"{name}std", torch.ones(width))

    def clean_code(self, features: Tensor) -> Tensor:
        """What the stage gives for features (N, ...) in float32, standardised channel by channel."""
        code = activations(self.split, features, [self.stage])[self.stage].float()
        return (code - along_channels(self.code_mean, code, self.code_dim)) / along_channels(
            self.code_std, code, self.code_dim
        )

    def code(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Features (N, ...) -> the code with its noise, drawn anew each time."""
        code = self.clean_code(features.float())
        if self.noise_std:
            noise = torch.randn(code.shape, generator=generator, dtype=torch.float32, device=code.device)
            code = code + self.noise_std * noise
        return code

    def written(self, code: Tensor) -> Tensor:
        """Codes (N, ...) -> features (N, ...) that the public tail reads like those that the codes are of."""
        written = self.writer(code)
        std, mean = (along_channels(value, written, self.channel_dim) for value in (self.std, self.mean))
        features: Tensor = written * std + mean
        return features

    def resynthesised(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Features (N, ...) -> others that the public tail reads alike; noise is drawn anew each time."""
        return self.written(self.code(features, generator=generator)).to(features.dtype)

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Features (N, ...) -> resynthesised ones, or the code that those are written from."""
        if self.coded:
            return self.code(features, generator=generator).to(features.dtype)
        return self.resynthesised(features, generator=generator)

    def location(self, images: Tensor) -> Tensor:
        """The code (N, ...) without its noise, where the code is what is released."""
        return self.clean_code(self.features(images).float())

    def noise(self) -> AdditiveNoise | None:
        """Gaussian, where the code is what is released; of features written from a noisy code no density is known."""
        return AdditiveNoise("gaussian", self.noise_std) if self.coded and self.noise_std else None

    def predict(self, released: Tensor) -> Tensor:
        """Server side: what was released -> logits (N, classes)."""
        return super().predict(self.written(released.float()) if self.coded else released)


@register
class Resynthesis(Defense):
    """Releases features that a small network writes back from noisy, deeper activations of the public network.

    Ours, after Deep Poisoning (Guo et al., arXiv 1912.06895): a module at the split point that hides *and* teaches.
    Where a module keeps the logits alone a partner learns nothing from what it releases; here all stages of the public
    tail are kept. What hides is the waist: T_stage(h), standardised channel by channel, plus `noise` times a standard
    normal. The release is computed from that alone, so it holds no more of the image than the noisy deep activations
    do. h' = D(code), D written back to the shape of h: partners, adapters and attacks run unchanged.

    Loss = KL(T(h) || T(h')) + sum over the tail's stages l of MSE(T_l(h'), T_l(h)) / Var(T_l(h)). No labels and no
    reconstructors; head and tail frozen; images mirrored at random. Maps are written by pixel-shuffle and residual
    blocks, tokens by attention blocks, flat features by linear layers; only maps were tried on photographs.

    `stage` and `noise` are the curve: a deeper stage and more noise hide more. The client pays for the tail up to the
    stage and for D. With `fit_on` = public the module is fitted on public images (in the protocol `sharing`): then its
    weights say nothing of the private ones. Several releases of one image average the noise away, and a decoder reads
    the release better than the code: never judge on the code alone. With `form` = code the client sends the code, the
    server has D, and no partner's tail can be trained on it: for inference, and in `sharing` an arm that is attacked
    beside the others. In a trial on CIFAR-10 photographs (three seeds,
    small budget) layer3 with noise 1 kept 70 to 97% of the gain that clean images give, at leakage 0.12 to 0.16.
    """

    name: ClassVar[str] = "resynthesis"
    version: ClassVar[int] = 1
    ids_skip_default: ClassVar[tuple[str, ...]] = ("form",)

    stage: str | int = Field(
        2, description="of the public tail whose activations are released: a name, or 1 for the first behind the split"
    )
    noise: float = Field(1.0, ge=0, le=1000, description="std of the code's noise, relative to that of each channel")
    epochs: int = Field(4, ge=1, le=1000, description="over the images that it is fitted on")
    fit_on: Literal["private", "public"] = Field(
        "private", description="images that it is fitted on; public ones are there in the protocol sharing"
    )
    form: Literal["features", "code"] = Field(
        "features", description="what is released: features written back, or the code that they are written from"
    )
    learning_rate: float = Field(4e-3, gt=0, le=1, description="peak of the one-cycle schedule, AdamW")
    batch_size: int = Field(64, ge=2, le=4096, description="images per step")

    def build(self, split: SplitModel) -> Resynthesised:
        """For maps, tokens or flat features; the writer's weights mean nothing before `fit`.

        Raises:
            DpbenchError: features of another layout, or no such stage.
        """
        with torch.random.fork_rng(devices=[]):
            return Resynthesised(split, self.stage, self.noise, coded=self.form == "code")

    def fit(
        self,
        model: ProtectedModel,
        private: LabelledImages,
        *,
        generator: torch.Generator,
        progress: Callable[[str], None],
    ) -> None:
        """Measure features and codes, then train the writer; head and tail stay as they are."""
        assert isinstance(model, Resynthesised)
        progress("measuring the features")
        measure(model, private, generator)
        train(self, model, private, generator, progress)


def measure(model: Resynthesised, images: LabelledImages, generator: torch.Generator) -> None:
    """Channel statistics of the features and of the code, into the model's buffers."""
    batches = feature_batches(model, images, generator=generator)
    mean, std = channel_scales(batches, model.channel_dim)
    codes = (model.clean_code(batch).detach() for batch in feature_batches(model, images, generator=generator))
    code_mean, code_std = mean_and_std(codes, channel_dim=model.code_dim)
    model.mean.copy_(mean)
    model.std.copy_(std)
    model.code_mean.copy_(code_mean)
    model.code_std.copy_(code_std.clamp(min=LEAST_STD))


def train(
    recipe: Resynthesis,
    model: Resynthesised,
    images: LabelledImages,
    generator: torch.Generator,
    progress: Callable[[str], None],
) -> None:
    """Train the writer in place; see `Resynthesis` for the loss."""
    device = images.images.device
    network = model.writer.train().requires_grad_(True)
    initialise(network, generator)
    steps_per_epoch = math.ceil(len(images) / images.training_batch(recipe.batch_size))
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=1e-2)
    schedule = one_cycle(optimizer, recipe.learning_rate, steps=recipe.epochs * steps_per_epoch, rise=0.15)
    stages = stages_of(model.split)
    with frozen(model.split):
        for epoch in range(recipe.epochs):
            progress(f"epoch {epoch + 1}/{recipe.epochs}")
            order = torch.randperm(len(images), generator=generator, device=device)
            for chosen in order.tensor_split(steps_per_epoch):
                batch = images.images[chosen]
                mirrored = torch.rand(len(batch), 1, 1, 1, generator=generator, device=device) < 0.5
                with torch.no_grad(), autocast(device):
                    clean = model.features(torch.where(mirrored, batch.flip(3), batch))
                    wanted, clean_logits = activations_and_logits(model.split, clean, stages)
                with autocast(device):
                    written = model.resynthesised(clean, generator=generator)
                    found, logits = activations_and_logits(model.split, written, stages)
                loss = equivalence(logits.float(), clean_logits.float()) + mismatch(found, wanted)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    optimizer.zero_grad()
    network.eval()
