"""What a run keeps of an attack to look at: its first victims and reconstructions, as tensors and as a picture."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch

from dpbench.pipeline import Result
from dpbench.report import reconstructions_path, write_picture
from dpbench.store import picture_path, write_atomically

KEPT = 16
"""Victims of an attack that are kept as images."""


def keep_images(run_dir: Path, name: str, result: Result, *, title: str) -> None:
    """Write `DIR/reconstructions/NAME.safetensors` and `DIR/pictures/NAME.png`."""
    victims, reconstructions = result.victims[:KEPT], result.reconstructions[:KEPT]
    pairs = {"victims": _as_bytes(victims), "reconstructions": _as_bytes(reconstructions)}
    write_atomically(reconstructions_path(run_dir, name), lambda path: safetensors.torch.save_file(pairs, path))
    captions = [f"SSIM {value:.2f}" for value in result.fidelity["ssim"][:KEPT]]
    write_picture(picture_path(run_dir, name), victims, reconstructions, captions=captions, title=title)


def _as_bytes(images: torch.Tensor) -> torch.Tensor:
    return (images * 255).round().to(torch.uint8).contiguous()
