"""The receiver's training: its server tail, from its own images and from what others shared."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpbench.contract.defense import ProtectedModel, SplitModel
from dpbench.contract.images import LabelledImages
from dpbench.machine.devices import place
from dpbench.machine.process_state import preserved
from dpbench.machine.randomness import seeded
from dpbench.models.training import assert_finite, augment, one_cycle, precision
from dpbench.protocols.sharing.suite import Refinement
from dpbench.service.quantisation import understood

VERSION = 1
"""Raise it whenever the recipe changes: it is part of every record."""


@dataclass(frozen=True)
class Shared:
    """What others shared: features (N, ...), or images; classes (N,) int64, or shares of each class (N,classes)."""

    labels: Tensor
    features: Tensor | None = None
    images: Tensor | None = None


class Tail(nn.Module):
    """A server tail with an adapter for features that others shared.

    Args:
        tail: features -> logits.
        adapter: features -> features; does nothing before training.
    """

    def __init__(self, tail: nn.Module, adapter: nn.Module) -> None:
        super().__init__()
        self.tail = tail
        self.adapter = adapter

    def forward(self, features: Tensor, foreign: bool = False) -> Tensor:
        """Features (N, ...) -> logits (N, classes); `foreign`: of another entity."""
        logits: Tensor = self.tail(self.adapter(features) if foreign else features)
        return logits


class ChannelMap(nn.Module):
    """A linear map of the channels, the identity before training; of flat features a scale and a shift of each.

    Args:
        shape: of the features of one image.
        channel_dim: of the channels, counted with the batch; 1 for maps and flat features.
    """

    def __init__(self, shape: tuple[int, ...], channel_dim: int) -> None:
        super().__init__()
        self.channel_dim = channel_dim
        channels = shape[channel_dim - 1]
        flat = len(shape) == 1
        self.weight = nn.Parameter(torch.ones(channels) if flat else torch.eye(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, ...) -> the same shape."""
        if self.weight.dim() == 1:
            return features * self.weight + self.bias
        last = features.movedim(self.channel_dim, -1)
        return F.linear(last, self.weight, self.bias).movedim(-1, self.channel_dim)


def refine(
    public: SplitModel,
    client: ProtectedModel,
    own: LabelledImages,
    shared: Shared | None,
    settings: Refinement,
    *,
    longer: bool,
    channel_dim: int,
    seed: int,
    generator: torch.Generator,
    of_shared: torch.Generator,
    progress: Callable[[str], None],
) -> Tail:
    """Train a copy of the public tail; the head stays as it is.

    AdamW under a one-cycle schedule, label smoothing 0.1. Own images (and shared images) are flipped and shifted as in
    `dpbench.models.training`; features cannot be. Batch norm keeps its statistics: those of a mixed batch are neither
    source's. Each step takes `batch_size` own images and, where something was shared, as many of that.

    Args:
        public: the public network, frozen, in eval mode.
        client: what the receiver's own images go through.
        own: its images, on the device.
        shared: what others shared; None: own data alone.
        settings: steps, batch size, rate.
        longer: twice as many own images per step, the compute of a mixed batch: twice the epochs.
        channel_dim: of the features, for the adapter.
        seed: of what torch draws by itself.
        generator: order, augmentation, and noise of the client: of the receiver's own images, whatever is shared.
        of_shared: order and augmentation of what others shared.
        progress: shows "step 20/300".

    Returns:
        The trained tail, frozen, in eval mode.

    Raises:
        DpbenchError: it diverged.
    """
    device = own.images.device
    with torch.no_grad():
        shape = tuple(_released(client, own.images[:2], generator).shape[1:])
    adapter = ChannelMap(shape, channel_dim) if settings.adapter and shared is not None else nn.Identity()
    model = Tail(copy.deepcopy(public.server_tail), place(adapter, device)).requires_grad_(True)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=0.05)
    schedule = one_cycle(optimizer, settings.learning_rate, steps=settings.steps)
    count = settings.batch_size * (2 if longer else 1)
    draw_own = _draws(len(own), count, generator)
    draw_shared = _draws(len(shared.labels), settings.batch_size, of_shared) if shared is not None else None
    with seeded(seed, device):  # dropout of the tail
        for step in range(settings.steps):
            if step % 20 == 0:
                progress(f"step {step}/{settings.steps}")
            chosen = next(draw_own)
            with torch.no_grad():
                images = augment(own.images[chosen], generator=generator)
                features = understood(client, _released(client, images, generator))
            labels = own.labels[chosen]
            with precision(own.images[:1]):
                logits = model(features).float()
            if shared is not None and draw_shared is not None:
                chosen = next(draw_shared)
                theirs = _batch(shared, chosen, public, of_shared)
                with precision(own.images[:1]):
                    logits = torch.cat([logits, model(theirs, foreign=True).float()])
                labels = torch.cat([_alike(labels, shared.labels), shared.labels[chosen]])
            loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    assert_finite(model, settings.learning_rate)
    return model.eval().requires_grad_(False)


def _alike(labels: Tensor, others: Tensor) -> Tensor:
    """Classes (n,), as shares of each class (n,classes) where the others are such."""
    return F.one_hot(labels, others.shape[1]).to(others.dtype) if others.is_floating_point() else labels


def _released(client: ProtectedModel, images: Tensor, generator: torch.Generator) -> Tensor:
    """The release of a copy of the images (n,3,H,W): the defense may work in place."""
    with preserved():
        return client.release(images.clone(), generator=generator)


def _batch(shared: Shared, chosen: Tensor, public: SplitModel, generator: torch.Generator) -> Tensor:
    """Shared features (n, ...) at `chosen`; of shared images the clean ones."""
    if shared.features is not None:
        return shared.features[chosen].float()
    assert shared.images is not None
    with torch.no_grad():
        features: Tensor = public.client_head(augment(shared.images[chosen], generator=generator))
    return features


def _draws(total: int, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Places (count,) of images, epoch after epoch in a new order each; a batch may span several."""
    left = torch.empty(0, dtype=torch.long, device=generator.device)
    while True:
        while len(left) < count:
            left = torch.cat([left, torch.randperm(total, generator=generator, device=generator.device)])
        drawn, left = left[:count], left[count:]
        yield drawn
