"""Deep Poisoning: a learned module that keeps the task and starves a reconstructor."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dpbench.calibration import feature_batches, mean_and_std
from dpbench.devices import autocast, place
from dpbench.errors import DpbenchError
from dpbench.fidelity import ssim_unchecked
from dpbench.registry import register
from dpbench.types import Defense, LabelledImages, ProtectedModel, SplitModel

RECONSTRUCTORS = ((64, 2), (96, 1), (48, 3))
"""Channels and residual blocks of the pool's reconstructors, in turn: one that is fooled must not fool for all."""

RECONSTRUCTOR_LEARNING_RATE = 2e-3


class ConvBlock(nn.Module):
    """x + conv(relu(conv(norm(x)))), (N,C,H,W) -> the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.expand = nn.Conv2d(width, width, 3, padding=1)
        self.project = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,C,H,W)."""
        y: Tensor = x + self.project(F.relu(self.expand(self.norm(x))))
        return y


class TokenBlock(nn.Module):
    """A pre-norm transformer block, (N,L,C) -> the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = next(heads for heads in (8, 4, 3, 2, 1) if width % heads == 0)
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.project = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N,L,C) -> (N,L,C)."""
        n, length, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width)
        x = x + self.mix(attended)
        y: Tensor = x + self.project(F.relu(self.expand(self.norm(x))))
        return y


class Waist(nn.Module):
    """Few channels on a coarse grid: (N,C,H,W) -> the same shape through channels * grid**2 values an image.

    Averaging down and bilinear resizing up are one linear map for rows and one for columns. Written as matrix
    products, because the backward passes of the pooling and resizing kernels are not deterministic on CUDA.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, shape: tuple[int, ...], channels: int, grid: int) -> None:
        super().__init__()
        width, height, breadth = shape
        self.narrow = nn.Conv2d(width, channels, 3, padding=1)
        self.widen = nn.Conv2d(channels, width, 1)
        self.register_buffer("rows", coarse(height, grid), persistent=False)
        self.register_buffer("columns", coarse(breadth, grid), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,C,H,W)."""
        y: Tensor = self.widen(self.rows @ self.narrow(x) @ self.columns.T)
        return y


def coarse(size: int, grid: int) -> Tensor:
    """(size,size) matrix of rank min(size,grid): averages a line down to `grid` cells and resizes it back."""
    if grid >= size:
        return torch.eye(size)
    down = F.adaptive_avg_pool1d(torch.eye(size)[None], grid)[0]
    up = F.interpolate(torch.eye(grid)[None], size, mode="linear")[0]
    return (down @ up).T


def poisoning_module(shape: tuple[int, ...], blocks: int, channels: int, grid: int) -> nn.Sequential:
    """Residual blocks at the width of the features, with a waist half way.

    Args:
        shape: (C,H,W) or (L,C) of the features.
        blocks: residual blocks, before and after the waist together.
        channels: of the waist; 0 leaves it out.
        grid: side of the waist in positions. Tokens keep their number.
    """
    first = (blocks + 1) // 2
    if len(shape) == 2:
        width = shape[1]
        tokens: list[nn.Module] = [TokenBlock(width) for _ in range(blocks)]
        waist: list[nn.Module] = [nn.Linear(width, channels), nn.Linear(channels, width)] if channels else []
        return nn.Sequential(*tokens[:first], *waist, *tokens[first:], nn.Linear(width, width))
    width = shape[0]
    maps: list[nn.Module] = [ConvBlock(width) for _ in range(blocks)]
    waist = [Waist(shape, channels, grid)] if channels else []
    return nn.Sequential(*maps[:first], *waist, *maps[first:], nn.Conv2d(width, width, 3, padding=1))


class DpmModel(ProtectedModel):
    """The split model with a Deep Poisoning Module between head and tail.

    Args:
        split: its features are maps (N,C,H,W) or tokens (N,L,C).
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
        self.feature_shape = _feature_shape(split)
        if len(self.feature_shape) not in (2, 3):
            shape = ", ".join(["N", *map(str, self.feature_shape)])
            raise DpbenchError(
                f"dpm: the features at {split.split_point!r} are ({shape}); expected maps (N,C,H,W) "
                "or tokens (N,L,C); choose another split point"
            )
        self.channel_dim = 1 if len(self.feature_shape) == 3 else 2
        width = self.feature_shape[self.channel_dim - 1]
        with torch.device(_device_of(split)):
            self.module = poisoning_module(self.feature_shape, blocks, channels, grid)
            self.register_buffer("mean", torch.zeros(width))
            self.register_buffer("std", torch.ones(width))

    def transform(self, features: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Features (N,C,H,W) or (N,L,C) -> poisoned features, same shape, dtype and device. Deterministic."""
        mean, std = (s.view(-1, 1, 1) if self.channel_dim == 1 else s for s in (self.mean, self.std))
        poisoned: Tensor = self.module((features - mean) / std)
        return (poisoned * std + mean).to(features.dtype)


class Reconstructor(nn.Module):
    """What the module is trained against: residual blocks at the features' resolution, then pixel-shuffle.

    Args:
        shape: (C,H,W) or (L,C) of the features. Tokens are mixed by attention, then laid on their square grid.
        image_shape: (3, H, W) of the images.
        width: channels of the residual blocks.
        depth: how many of them.
    """

    def __init__(self, shape: tuple[int, ...], image_shape: tuple[int, int, int], width: int, depth: int) -> None:
        super().__init__()
        self.image_size = image_shape[1:]
        is_map = len(shape) == 3
        channels, self.side = (shape[0], shape[1]) if is_map else (shape[1], math.isqrt(shape[0]))
        self.tokens = None if is_map else TokenBlock(channels)
        factor = max(1, math.ceil(max(self.image_size) / self.side))
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            *(ConvBlock(width) for _ in range(depth)),
            nn.Conv2d(width, 3 * factor * factor, 3, padding=1),
            nn.PixelShuffle(factor),
        )

    def forward(self, released: Tensor) -> Tensor:
        """(N,C,H,W) or (N,L,C) -> (N,3,H,W) float32 in [0,1]."""
        x = released
        if self.tokens is not None:
            # class and register tokens stand before the patches; attention has mixed them in
            patches = self.tokens(x)[:, -(self.side**2) :]
            x = patches.transpose(1, 2).unflatten(2, (self.side, self.side))
        images: Tensor = self.body(x)
        height, breadth = self.image_size  # where the features' side does not divide it, the rest is cut off
        return images[:, :, :height, :breadth].float().sigmoid()


def _device_of(module: nn.Module) -> torch.device:
    tensor = next(itertools.chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _feature_shape(split: SplitModel) -> tuple[int, ...]:
    """The shape of one image's features, found by sending a blank image through the head."""
    blank = torch.zeros(1, *split.image_shape, device=_device_of(split))
    with torch.no_grad():
        return tuple(split.client_head(blank).shape[1:])


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """PyTorch's default initial weights (biases zero), drawn from `generator` instead of the global one."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
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


def task_loss(logits: Tensor, clean_logits: Tensor, labels: Tensor) -> Tensor:
    """KL(clean || poisoned) + cross-entropy, (N,classes) twice and (N,) -> () in nats."""
    kl = F.kl_div(logits.log_softmax(1), clean_logits.log_softmax(1), log_target=True, reduction="batchmean")
    return kl + F.cross_entropy(logits, labels)


def structure(images: Tensor, truth: Tensor) -> Tensor:
    """Mean over images of |SSIM|, (N,3,H,W) in [0,1] twice -> (). An inverted picture hides nothing."""
    return ssim_unchecked(images, truth).abs().mean()


@register
class DeepPoisoning(Defense):
    """DPM, re-implemented from the abstract of Guo et al. (arXiv 1912.06895, WACV 2021); our choices below.

    Public is this: a private module at a convolutional layer of a pre-trained network, trained so that
    reconstructions of its output fail structurally (SSIM) while the task result stays functionally equivalent.
    Layer, architecture, weights, schedule and figures of the paper were not at hand: nothing here may be
    compared with its figures.

    Our choices: residual blocks at the width of the features (convolutions for maps (N,C,H,W), transformer
    blocks for tokens (N,L,C)); head and tail frozen; loss = KL to the clean logits + cross-entropy +
    `strength` * |SSIM(R(P(z)), x)|; images mirrored at random.

    Beyond the paper: with `channels` > 0 the module has a narrow waist half way, channels * grid**2 values an
    image for maps, `channels` a token for tokens. What it does not carry no attacker learns to read, so this part
    holds against fresh attackers where training against known ones does not. The price is that the client does
    part of the server's work, and that many classes need a wider waist. In a short trial (one seed) the waist did
    most of the hiding and the reconstructors little: sweep `grid` and `channels` too, not `strength` alone.

    A pool of reconstructors R of different sizes and starts trains in alternation: each at every step by MSE, and
    by SSIM too when it is its turn to be the module's opponent. Up to two thirds of the way one of them is
    replaced by an untrained one at every epoch, so that the module does not learn to fool one history. They are
    not kept: a fresh attacker judges, never one that the defense has trained against.
    """

    name: ClassVar[str] = "dpm"
    version: ClassVar[int] = 1
    paper: ClassVar[str] = "Guo et al., Deep Poisoning, arXiv 1912.06895, WACV 2021 (from the abstract)"
    trained_on: ClassVar[tuple[str, ...]] = ("ssim",)

    strength: float = Field(1.0, ge=0, le=100, description="weight of the reconstructors' SSIM in the loss")
    blocks: int = Field(4, ge=1, le=16, description="residual blocks of the module")
    channels: int = Field(0, ge=0, le=4096, description="width of the waist; 0 for none")
    grid: int = Field(2, ge=1, le=64, description="side of the waist in positions (maps only)")
    pool: int = Field(3, ge=1, le=16, description="reconstructors trained in alternation with the module")
    epochs: int = Field(6, ge=1, le=1000, description="over the private images")
    learning_rate: float = Field(4e-3, gt=0, le=1, description="peak of the module's one-cycle schedule, AdamW")
    batch_size: int = Field(64, ge=2, le=4096, description="images per step")

    def build(self, split: SplitModel) -> DpmModel:
        """For maps (N,C,H,W) or tokens (N,L,C); the module's weights mean nothing before `fit`.

        Raises:
            DpbenchError: features of another shape.
        """
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
        mean, std = mean_and_std(batches, channel_dim=model.channel_dim)
        model.mean.copy_(mean)
        model.std.copy_(std.clamp(min=1e-3 * std.max() + 1e-12))  # dead channels must not be blown up

        def new_reconstructor(index: int) -> tuple[nn.Module, torch.optim.Optimizer]:
            width, depth = RECONSTRUCTORS[index % len(RECONSTRUCTORS)]
            with torch.random.fork_rng(devices=[]):
                net = Reconstructor(model.feature_shape, model.split.image_shape, width, depth)
            net = place(net, device)
            initialise(net, generator)
            return net, torch.optim.AdamW(net.parameters(), lr=RECONSTRUCTOR_LEARNING_RATE)

        module = model.module.train().requires_grad_(True)
        initialise(module, generator)
        steps_per_epoch = math.ceil(len(private) / self.batch_size)
        optimizer = torch.optim.AdamW(module.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=self.epochs * steps_per_epoch, pct_start=0.15
        )
        pool = [new_reconstructor(index) for index in range(self.pool)]
        with frozen(model.split):
            for epoch in range(self.epochs):
                progress(f"epoch {epoch + 1}/{self.epochs}")
                if 0 < epoch <= self.epochs * 2 // 3:
                    pool[epoch % self.pool] = new_reconstructor(epoch)
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
                    loss = task_loss(logits.float(), clean_logits.float(), private.labels[chosen])
                    loss = loss + self.strength * structure(guess, images)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
        optimizer.zero_grad()
        module.eval()
