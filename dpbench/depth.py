"""How deep a split point lies: the share of the network's work that the client does before it releases."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from dpbench.types import SplitModel


def client_share(split: SplitModel) -> float:
    """Multiply-adds of the head over those of head and tail, in [0,1]; convolutions, products and attention count."""
    some = next(split.parameters(), torch.empty(0))
    with torch.no_grad(), FlopCounterMode(display=False) as head:
        released = split.client_head(torch.zeros(1, *split.image_shape, device=some.device))
    with torch.no_grad(), FlopCounterMode(display=False) as tail:
        split.server_tail(released)
    total = head.get_total_flops() + tail.get_total_flops()
    return head.get_total_flops() / total if total else 0.0
