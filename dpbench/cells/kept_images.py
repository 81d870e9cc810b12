"""What a run keeps of an attack to look at: its first victims and reconstructions, as tensors and as a picture."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from dpbench.cells.result import Result
from dpbench.errors import DpbenchError
from dpbench.machine.writing import Unwritable, write_atomically
from dpbench.records.pictures import pixels_of, reconstructions_path, steps_path, write_picture, write_rows
from dpbench.records.store import picture_path

KEPT = 16
"""Victims of an attack that are kept as images."""


def keep_images(
    run_dir: Path, name: str, result: Result, *, title: str, frames: Mapping[int, torch.Tensor] | None = None
) -> dict[str, str]:
    """Write `reconstructions/NAME.safetensors`, `pictures/NAME.png`, and what was logged to `steps/NAME.*`.

    Returns:
        Path of each below the run directory -> SHA-256 of its content, for the record.

    Raises:
        Unwritable: the disk is full or not writable, or the run directory was removed.
    """
    victims, reconstructions = result.victims[:KEPT], result.reconstructions[:KEPT]
    pairs = {"victims": _as_bytes(victims), "reconstructions": _as_bytes(reconstructions)}
    tensors, picture = reconstructions_path(run_dir, name), picture_path(run_dir, name)
    write_atomically(tensors, lambda path: safetensors.torch.save_file(pairs, path))
    captions = [f"SSIM {value:.2f}" for value in result.fidelity.get("ssim", [])[:KEPT]]
    write_picture(picture, victims, reconstructions, captions=captions, title=title)
    files = [tensors, picture]
    if frames:
        steps = steps_path(run_dir, name)
        logged = {str(step): _as_bytes(frame) for step, frame in frames.items()}
        write_atomically(steps, lambda path: safetensors.torch.save_file(logged, path))
        files.append(steps)
        rows = [(f"step {step}", "", pixels_of(frame[None])) for step, frame in frames.items()]
        sizes = {images.shape for _, _, images in rows}
        write_rows(run_dir / "steps" / f"{name}.png", [row for row in rows if row[2].shape == max(sizes)], title=title)
    return hashes_of(run_dir, files)


def load_images(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Victims and reconstructions that a run kept, (N,3,H,W), as many of both and of one size; uint8 as written.

    Raises:
        DpbenchError: the file is gone, damaged, or holds something else.
    """
    again = f"delete the record {path.stem} and run the suite again"
    try:
        tensors = safetensors.torch.load_file(path)
        victims, reconstructions = tensors["victims"], tensors["reconstructions"]
    except (safetensors.SafetensorError, KeyError, OSError) as error:
        raise DpbenchError(f"{path} is damaged ({error}); {again}") from error
    same = victims.shape == reconstructions.shape and victims.ndim == 4 and victims.shape[1] == 3
    if not same:
        shown = " and ".join(str(tuple(one.shape)) for one in (victims, reconstructions))
        raise DpbenchError(f"{path} holds images of {shown}, expected (N,3,H,W), as many and of one size; {again}")
    return victims, reconstructions


def hashes_of(run_dir: Path, files: Sequence[Path]) -> dict[str, str]:
    """Path below the run directory -> SHA-256 in hex of what is there.

    Raises:
        Unwritable: a file is gone.
    """
    try:
        return {path.relative_to(run_dir).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    except OSError as error:
        raise Unwritable(
            f"{run_dir} was removed while the run went on ({error.strerror}); run the same command again: what is "
            "left of the finished cells is kept"
        ) from error


def _as_bytes(images: torch.Tensor) -> torch.Tensor:
    return (images * 255).round().to(torch.uint8).contiguous()
