"""Fitting a classifier on the defender's private images: a short, good recipe that reads top to bottom."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpbench.contract.images import LabelledImages
from dpbench.errors import DpbenchError
from dpbench.machine.devices import autocast, fuses

VERSION = 1
"""Raise it whenever the recipe changes; see `recipe`."""

FAST_FROM = 32
"""Smallest side of images, in pixels, on which classifiers are fitted in bf16. On smaller ones a network that reduces
them 32-fold convolves maps of one position with a stride: bf16 kernels of some CPUs read memory there that nobody
wrote."""

BATCH_SIZE = 128


def fit_classifier(
    model: nn.Module,
    private: LabelledImages,
    *,
    epochs: int,
    learning_rate: float,
    generator: torch.Generator,
    progress: Callable[[str], None],
    batch_size: int = BATCH_SIZE,
) -> None:
    """Train `model` in place; it is in eval mode afterwards.

    AdamW under a one-cycle schedule, label smoothing 0.1, random flips and shifts (1/8 of the side).

    Args:
        model: images (N,3,H,W) in [0,1] -> logits, on its device.
        private: training images on the same device.
        epochs: passes over the images.
        learning_rate: peak of the schedule.
        generator: order and augmentation, on the same device.
        progress: shows "epoch 2/8".
        batch_size: images per step, fewer where `private.batch_size` is less.

    Raises:
        DpbenchError: it diverged.
    """
    if epochs == 0:
        model.eval()
        return
    device = private.images.device
    batch_size = private.training_batch(batch_size)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.05, fused=fuses(device))
    batches = max(1, len(private) // batch_size)  # the last, smaller batch is dropped: batch norm dislikes it
    schedule = one_cycle(optimizer, learning_rate, steps=epochs * batches)
    for epoch in range(epochs):
        progress(f"epoch {epoch + 1}/{epochs}")
        order = torch.randperm(len(private), generator=generator, device=device)
        for index in order[: batches * batch_size].split(batch_size):
            images = augment(private.images[index], generator=generator)
            with precision(images):
                logits = model(images)
            loss = F.cross_entropy(logits.float(), private.labels[index], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    assert_finite(model, learning_rate)
    model.eval()


def recipe(image_size: int) -> int | str:
    """Says how images of this size are trained on: part of the key of every cached classifier."""
    return VERSION if image_size >= FAST_FROM else f"{VERSION} in fp32"


def precision(images: Tensor) -> AbstractContextManager[None]:
    """What classifiers are fitted in, on images (N,3,H,W) of this size and device."""
    return autocast(images.device) if min(images.shape[-2:]) >= FAST_FROM else nullcontext()


def assert_finite(model: nn.Module, learning_rate: float) -> None:
    """An error where training left a weight or a statistic that is not a number."""
    if not all(bool(value.isfinite().all()) for value in model.state_dict().values() if value.is_floating_point()):
        raise DpbenchError(f"the training diverged: weights are not finite; lower learning_rate = {learning_rate:g}")


def augment(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Each image flipped with probability 1/2 and shifted by up to 1/8 of its side, edges reflected.

    (N,3,H,W) -> the same shape, in channels_last.
    """
    count, _, height, width = images.shape
    pad = max(1, height // 8)
    device = images.device
    flip = torch.rand(count, generator=generator, device=device) < 0.5
    rows = torch.randint(0, 2 * pad + 1, (count, 1), generator=generator, device=device)
    columns = torch.randint(0, 2 * pad + 1, (count, 1), generator=generator, device=device)
    rows = rows + torch.arange(height, device=device)
    columns = columns + torch.arange(width, device=device)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    padded = F.pad(images, (pad, pad, pad, pad), mode="reflect").permute(0, 2, 3, 1)
    picked = padded[torch.arange(count, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)  # NHWC storage seen as NCHW: channels_last


def one_cycle(
    optimizer: torch.optim.Optimizer, peak: float | list[float], *, steps: int, rise: float = 0.3
) -> torch.optim.lr_scheduler.OneCycleLR:
    """A learning rate that rises over a share of the steps and falls again (Smith & Topin 2019); any number will do.

    Args:
        optimizer: whose rate it is.
        peak: the largest rate, or that of each group of parameters.
        steps: of training, from 1.
        rise: share of the steps in which it rises. Torch divides by zero where that is exactly one step.
    """
    exactly_one = abs(rise * steps - 1) < 1e-9
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak, total_steps=steps, pct_start=rise * (1 + 1e-6) if exactly_one else rise
    )


def average_weights(mean: dict[str, Tensor], network: nn.Module, step: int, decay: float) -> None:
    """Move a running mean of a network's parameters towards what they are; the first steps count for more.

    Args:
        mean: name -> mean, changed in place; what else is in it is left as it is.
        network: after the step.
        step: from 0.
        decay: share of the mean that is kept in each step, once there are many.
    """
    share = 1 - min(decay, (step + 1) / (step + 10))
    for name, value in network.named_parameters():
        mean[name].lerp_(value.detach(), share)
