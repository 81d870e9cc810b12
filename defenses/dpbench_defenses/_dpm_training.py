"""How poisoning modules are trained, whatever their task loss is: shared by `dpm` and `dpm-equivalent`."""

from __future__ import annotations

import contextlib
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from dpbench.contract.defense import Defense, ProtectedModel, SplitModel
from dpbench.contract.feature_transform import feature_batches
from dpbench.contract.images import LabelledImages
from dpbench.errors import DpbenchError
from dpbench.machine.devices import autocast, fuses, place
from dpbench.machine.randomness import draw_weight
from dpbench.metrics.fidelity import ssim_unchecked
from dpbench.models.training import one_cycle
from dpbench.service.tail_stages import activations, stage_named
from dpbench.toolkit.calibration import along_channels, channel_scales
from dpbench.toolkit.inversion import channel_axis
from dpbench_defenses._dpm_networks import Reconstructor, poisoning_module
from dpbench_defenses._halves import device_of, feature_shape

RECONSTRUCTORS = ((64, 2), (96, 1), (48, 3))
"""Channels and residual blocks of the pool's reconstructors, in turn: one that is fooled must not fool for all."""

RECONSTRUCTOR_LEARNING_RATE = 2e-3


Stages = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
"""Names of stages, or a single one: in a suite a plain list is several settings, a list in a list is one of them."""


class DpmModel(ProtectedModel):
    """The split model with a Deep Poisoning Module between head and tail.

    Args:
        split: its features are maps (N,C,H,W) or (N,H,W,C), tokens (N,L,C), or flat (N,D).
        blocks: see `poisoning_module`, as `channels` and `grid`.
        channels: of the waist.
        grid: of the waist.

    Raises:
        DpbenchError: the features have another number of dimensions.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, split: SplitModel, blocks: int, channels: int, grid: int) -> None:
        super().__init__(split)
        self.feature_shape = feature_shape(split)
        refuse_layout("dpm", self.feature_shape, split.split_point)
        self.channel_dim = channel_axis((1, *self.feature_shape))
        width = self.feature_shape[self.channel_dim - 1]
        with torch.device(device_of(split)):
            self.module = poisoning_module(self.feature_shape, blocks, channels, grid)
            self.register_buffer("mean", torch.zeros(width))
            self.register_buffer("std", torch.ones(width))

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Features (N, ...) -> poisoned features, same shape, dtype and device. Deterministic."""
        mean, std = (along_channels(values, features, self.channel_dim) for values in (self.mean, self.std))
        poisoned: Tensor = self.module((features - mean) / std)
        return (poisoned * std + mean).to(features.dtype)


def refuse_layout(who: str, shape: tuple[int, ...], point: str) -> None:
    """Refuse features of one image (...) that are neither maps nor tokens nor flat.

    Raises:
        DpbenchError: says where they are.
    """
    if len(shape) in (1, 2, 3):
        return
    raise DpbenchError(
        f"{who}: the features at {point!r} are ({', '.join(['N', *map(str, shape)])}); expected maps (N,C,H,W) or "
        "(N,H,W,C), tokens (N,L,C), or flat (N,D); choose another split point"
    )


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """PyTorch's default initial weights (biases zero), drawn from `generator` instead of the global one."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            draw_weight(layer.weight, nn.init.kaiming_uniform_, generator, a=math.sqrt(5))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d | nn.LayerNorm):
            layer.reset_parameters()


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradients for the module's parameters inside; afterwards as it was."""
    before = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in before:
            parameter.requires_grad_(flag)


def new_reconstructor(
    released: tuple[int, ...],
    image: tuple[int, int, int],
    size: tuple[int, int],
    learning_rate: float,
    generator: torch.Generator,
) -> tuple[Reconstructor, torch.optim.Optimizer]:
    """A reconstructor with first weights of its own, on the generator's device, and what trains it.

    Args:
        released: shape of one image's release.
        image: (3, H, W).
        size: channels and residual blocks.
        learning_rate: of AdamW.
        generator: draws the weights.
    """
    with torch.random.fork_rng(devices=[]):
        network = Reconstructor(released, image, *size)
    network = place(network, generator.device)
    initialise(network, generator)
    return network, torch.optim.AdamW(network.parameters(), lr=learning_rate, fused=fuses(generator.device))


def equivalence(logits: Tensor, clean_logits: Tensor) -> Tensor:
    """KL(clean || poisoned), (N,classes) twice -> () in nats."""
    return F.kl_div(logits.log_softmax(1), clean_logits.log_softmax(1), log_target=True, reduction="batchmean")


def mismatch(found: Mapping[str, Tensor], clean: Mapping[str, Tensor]) -> Tensor:
    """Sum over stages of the mean squared change of an activation, over its variance: stage -> (N, ...) twice -> ()."""
    changes = [F.mse_loss(found[stage].float(), clean[stage].float()) / spread(clean[stage]) for stage in clean]
    return torch.stack(changes).sum()


def spread(activation: Tensor) -> Tensor:
    """The variance over all values of a batch, () and above zero."""
    return activation.float().var().clamp_min(1e-12)


def structure(images: Tensor, truth: Tensor) -> Tensor:
    """Mean over images of |SSIM|, (N,3,H,W) in [0,1] twice -> (). An inverted picture hides nothing."""
    return ssim_unchecked(images, truth).abs().mean()


class Poisoning(Defense):
    """The parameters and the training of a module that starves reconstructors; subclasses say what keeps the task."""

    trained_on: ClassVar[tuple[str, ...]] = ("ssim",)
    ids_skip_default: ClassVar[tuple[str, ...]] = ("match",)

    strength: float = Field(1.0, ge=0, le=100, description="weight of the reconstructors' SSIM in the loss")
    blocks: int = Field(4, ge=1, le=16, description="residual blocks of the module")
    channels: int = Field(0, ge=0, le=4096, description="width of the waist; 0 for none")
    grid: int = Field(2, ge=1, le=64, description="side of the waist in positions (maps only)")
    pool: int = Field(3, ge=1, le=16, description="reconstructors trained in alternation with the module")
    epochs: int = Field(6, ge=1, le=1000, description="over the private images")
    learning_rate: float = Field(4e-3, gt=0, le=1, description="peak of the module's one-cycle schedule, AdamW")
    batch_size: int = Field(64, ge=2, le=4096, description="images per step")
    match: Stages = Field(
        (), description="stages of the public tail whose activations are kept too, not the logits alone"
    )

    def build(self, split: SplitModel) -> DpmModel:
        """For maps, tokens or flat features; the module's weights mean nothing before `fit`.

        Raises:
            DpbenchError: features of another shape, or no such stage to match.
        """
        for stage in self.match:
            stage_named(split, stage, who=self.name)
        with torch.random.fork_rng(devices=[]):
            return DpmModel(split, self.blocks, self.channels, self.grid)

    def fit(
        self,
        model: ProtectedModel,
        private: LabelledImages,
        *,
        generator: torch.Generator,
        progress: Callable[[str], None],
    ) -> None:
        """Train the module against its reconstructors; head and tail stay as they are."""
        assert isinstance(model, DpmModel)
        device = private.images.device
        progress("measuring the features")
        batches = feature_batches(model, private, generator=generator)
        mean, std = channel_scales(batches, model.channel_dim)
        model.mean.copy_(mean)
        model.std.copy_(std)

        def new_opponent(index: int) -> tuple[nn.Module, torch.optim.Optimizer]:
            size, rate = RECONSTRUCTORS[index % len(RECONSTRUCTORS)], RECONSTRUCTOR_LEARNING_RATE
            return new_reconstructor(model.feature_shape, model.split.image_shape, size, rate, generator)

        module = model.module.train().requires_grad_(True)
        initialise(module, generator)
        steps_per_epoch = math.ceil(len(private) / private.training_batch(self.batch_size))
        optimizer = torch.optim.AdamW(module.parameters(), lr=self.learning_rate, fused=fuses(device))
        schedule = one_cycle(optimizer, self.learning_rate, steps=self.epochs * steps_per_epoch, rise=0.15)
        pool = [new_opponent(index) for index in range(self.pool)]
        stages = [stage_named(model.split, stage, who=self.name) for stage in self.match]
        with frozen(model.split):
            for epoch in range(self.epochs):
                progress(f"epoch {epoch + 1}/{self.epochs}")
                if 0 < epoch <= self.epochs * 2 // 3:
                    pool[epoch % self.pool] = new_opponent(epoch)
                order = torch.randperm(len(private), generator=generator, device=device)
                for step, chosen in enumerate(order.tensor_split(steps_per_epoch)):
                    images = private.images[chosen]
                    mirrored = torch.rand(len(images), 1, 1, 1, generator=generator, device=device) < 0.5
                    images = torch.where(mirrored, images.flip(3), images)
                    opponent = pool[step % self.pool][0]
                    with torch.no_grad(), autocast(device):
                        clean = model.features(images)
                        clean_logits = model.predict(clean)
                    with autocast(device):
                        released = model.transform(clean)

                    for reconstructor, reconstructor_optimizer in pool:
                        with autocast(device):
                            guess = reconstructor(released.detach())
                        error = F.mse_loss(guess, images)
                        if reconstructor is opponent:
                            error = error + 0.2 * (1 - ssim_unchecked(guess, images).mean())
                        reconstructor_optimizer.zero_grad()
                        error.backward()
                        reconstructor_optimizer.step()

                    with frozen(opponent), autocast(device):
                        logits = model.predict(released)
                        guess = opponent(released)
                    loss = self.task_loss(logits.float(), clean_logits.float(), private.labels[chosen])
                    loss = loss + self.strength * structure(guess, images)
                    if stages:
                        loss = loss + self._mismatch(model, released, clean, stages)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
        optimizer.zero_grad()
        module.eval()

    def _mismatch(self, model: DpmModel, released: Tensor, clean: Tensor, stages: list[str]) -> Tensor:
        device = clean.device
        with torch.no_grad(), autocast(device):
            wanted = activations(model.split, clean, stages)
        with autocast(device):
            found = activations(model.split, released, stages)
        return mismatch(found, wanted)

    @abstractmethod
    def task_loss(self, logits: Tensor, clean_logits: Tensor, labels: Tensor) -> Tensor:
        """What holds the task in place, (N,classes) twice and (N,) -> () in nats."""
