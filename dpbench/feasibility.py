"""Can a backbone do what a suite asks of it? Answered from shapes alone, before anything is computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpbench.errors import DpbenchError


def assert_classifies(model: nn.Module, *, image_size: int, classes: int, name: str) -> None:
    """Send shapes through a network on the meta device, which neither allocates nor computes.

    Args:
        model: on the meta device, in eval mode.
        image_size: side in pixels.
        classes: the number of logits it was made for.
        name: of the backbone, for messages.

    Raises:
        DpbenchError: it does not take images of this size, or gives no logits.
    """
    images = torch.zeros(2, 3, image_size, image_size, device="meta")
    try:
        with torch.no_grad():
            logits = model(images)
    except Exception as error:
        if isinstance(error, NotImplementedError) or "meta" in str(error):
            return  # it needs values, not only shapes: the run will show
        config: dict[str, Any] = getattr(model, "default_cfg", None) or {}
        size: tuple[int, ...] = config.get("input_size") or ()
        made_for = f" (it was made for {size[-2]} x {size[-1]})" if len(size) > 1 else ""
        reason = (" ".join(str(error).split()) or type(error).__name__)[:160]
        raise DpbenchError(
            f"backbone {name!r} does not take images of {image_size} x {image_size}: {reason}; "
            f"choose another dataset.image_size{made_for}"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (2, classes):
        came = f"a tensor of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise DpbenchError(
            f"backbone {name!r} has no classifier: expected logits of shape (2, {classes}) for 2 images, got {came}; "
            "choose a backbone, or args, with one"
        )
