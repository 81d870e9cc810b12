"""Pictures of victims and reconstructions, enlarged so that a person can judge images of 32x32 pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy
from PIL import Image, ImageDraw, ImageFont

from dpbench.contract.images import MOST_FRAMES, SIDE
from dpbench.data.images import Pixels
from dpbench.errors import DpbenchError
from dpbench.machine.writing import write_atomically
from dpbench.records.store import picture_path
from dpbench.text.shown_text import ERROR_LIMIT, clean

if TYPE_CHECKING:
    from torch import Tensor

    from dpbench.records.record import Envelope

PAPER, INK, FAINT = "white", (30, 30, 30), (110, 110, 110)

LABEL = 100
"""Most characters of a label beside a row of images."""

LARGEST_STEPS = 1_000_000
"""Bytes of a file of frames; longer ones are not read."""

LONGEST_STEP = 18
"""Digits of the number of a step."""

GAP, MARGIN, LABEL_PX, TITLE_PX = 4, 10, 13, 16

TILE_PX = 96
"""Images smaller than this are enlarged by a whole factor."""


def pixels_of(images: Tensor) -> Pixels:
    """(N,3,H,W), float in [0,1] or uint8 -> (N,H,W,3) uint8; non-finite values become black."""
    array = images.detach().cpu().numpy()
    if array.ndim != 4 or array.shape[1] != 3:
        raise DpbenchError(f"a picture needs images of shape (N,3,H,W), not {tuple(array.shape)}")
    if array.dtype != np.uint8:
        array = (np.nan_to_num(array.astype(np.float32)).clip(0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def _enlarged(image: Pixels, factor: int) -> Image.Image:
    picture = Image.fromarray(image)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _factor(pixels: Pixels) -> int:
    height, width = pixels.shape[1:3]
    return max(1, -(-TILE_PX // int(max(height, width))))


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """The text, shortened with an ellipsis until it fits."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float, lines: int) -> str:
    """The text on at most so many lines, broken between words."""
    wrapped: list[str] = []
    for word in text.split():
        if wrapped and font.getlength(f"{wrapped[-1]} {word}") <= width:
            wrapped[-1] += f" {word}"
        else:
            wrapped.append(word)
    kept = wrapped[: lines - 1] + ([" ".join(wrapped[lines - 1 :])] if len(wrapped) >= lines else [])
    return "\n".join(_fit(line, font, width) for line in kept)


def write_picture(
    path: Path,
    victims: Tensor,
    reconstructions: Tensor,
    *,
    captions: Sequence[str] = (),
    title: str = "",
    columns: int = 8,
) -> None:
    """A PNG of victims, each with its reconstruction below it.

    Args:
        path: where it goes; written whole, or not at all.
        victims: (N,3,H,W), float in [0,1] or uint8.
        reconstructions: as many, of the same size.
        captions: a short text under each pair, such as "SSIM 0.83".
        title: above the picture; wrapped where it is long.
        columns: pairs side by side before the next row begins.
    """
    top, bottom = pixels_of(victims), pixels_of(reconstructions)
    if top.shape != bottom.shape or len(top) == 0:
        raise DpbenchError(
            f"a picture needs as many reconstructions as victims, of one size: {top.shape} and {bottom.shape}"
        )
    columns = max(1, min(columns, len(top)))
    rows = -(-len(top) // columns)
    factor = _factor(top)
    height, width = top.shape[1] * factor, top.shape[2] * factor
    label, heading = ImageFont.load_default(LABEL_PX), ImageFont.load_default(TITLE_PX)
    side = int(label.getlength("recovered")) + GAP * 2
    caption_height = LABEL_PX + 8 if captions else 0
    pair_height = 2 * height + GAP + caption_height + 3 * GAP
    canvas_width = max(2 * MARGIN + side + columns * (width + GAP), 520)
    text = _wrap(clean(title), heading, canvas_width - 2 * MARGIN, 3) if title else ""
    head = MARGIN + (text.count("\n") + 1) * (TITLE_PX + 6) + GAP if text else MARGIN
    canvas = Image.new("RGB", (canvas_width, head + rows * pair_height + MARGIN), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.multiline_text((MARGIN, MARGIN), text, fill=INK, font=heading)
    for index in range(len(top)):
        row, column = divmod(index, columns)
        x, y = MARGIN + side + column * (width + GAP), head + row * pair_height
        canvas.paste(_enlarged(top[index], factor), (x, y))
        canvas.paste(_enlarged(bottom[index], factor), (x, y + height + GAP))
        if column == 0:
            draw.text((MARGIN, y + height // 2), "victim", fill=FAINT, font=label, anchor="lm")
            draw.text((MARGIN, y + height + GAP + height // 2), "recovered", fill=FAINT, font=label, anchor="lm")
        if index < len(captions):
            centre = (x + width // 2, y + 2 * height + 2 * GAP)
            draw.text(centre, _fit(clean(captions[index]), label, width), fill=INK, font=label, anchor="ma")
    write_atomically(path, lambda file: canvas.save(file, format="PNG", compress_level=3))


def write_rows(path: Path, rows: Sequence[tuple[str, str, Pixels]], *, title: str = "") -> None:
    """A PNG of labelled rows of images, as wide as the longest row.

    Args:
        path: where it goes; written whole, or not at all.
        rows: label, a second and smaller line below it, and the images (N,H,W,3) uint8, all of one size.
        title: above the picture.
    """
    rows = [(clean(name, LABEL), clean(note, LABEL), images) for name, note, images in rows]
    factor = _factor(rows[0][2])
    height, width = (factor * side for side in rows[0][2].shape[1:3])
    label, small = ImageFont.load_default(LABEL_PX + 1), ImageFont.load_default(LABEL_PX)
    heading = ImageFont.load_default(TITLE_PX)
    side = int(max(max(label.getlength(name), small.getlength(note)) for name, note, _ in rows)) + 3 * GAP
    columns = max(len(images) for _, _, images in rows)
    canvas_width = 2 * MARGIN + side + columns * (width + GAP)
    text = _wrap(clean(title), heading, canvas_width - 2 * MARGIN, 3) if title else ""
    head = MARGIN + (text.count("\n") + 1) * (TITLE_PX + 6) + GAP if text else MARGIN
    canvas = Image.new("RGB", (canvas_width, head + len(rows) * (height + GAP) + MARGIN), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.multiline_text((MARGIN, MARGIN), text, fill=INK, font=heading)
    for index, (name, note, images) in enumerate(rows):
        y = head + index * (height + GAP)
        draw.text((MARGIN, y + height // 2 - 2), name, fill=INK, font=label, anchor="ls")
        draw.text((MARGIN, y + height // 2 + 3), note, fill=FAINT, font=small, anchor="la")
        for column, image in enumerate(images):
            canvas.paste(_enlarged(image, factor), (MARGIN + side + column * (width + GAP), y))
    write_atomically(path, lambda file: canvas.save(file, format="PNG", compress_level=3))


def reconstructions_path(run_dir: Path, cell_id: str) -> Path:
    """Where a cell's first images lie: uint8 tensors `victims` and `reconstructions`, (N,3,H,W)."""
    return run_dir / "reconstructions" / f"{cell_id}.safetensors"


def steps_path(run_dir: Path, name: str) -> Path:
    """Where the images lie that an attack showed while it ran: uint8 tensors (3,h,w), each called by its step."""
    return run_dir / "steps" / f"{name}.safetensors"


def frames_of(run_dir: Path, record: Envelope) -> dict[int, Pixels]:
    """Step -> image (h,w,3) uint8 that an attack showed, in order; empty where it showed none, or not these.

    What is not the file that was written with the record, or holds anything else, counts as not there.
    """
    path = steps_path(run_dir, record.id)
    hashed = record.kept.get(path.relative_to(run_dir).as_posix())
    try:
        if hashed is None or path.stat().st_size > LARGEST_STEPS:
            return {}
        content = path.read_bytes()
        given = safetensors.numpy.load(content) if hashlib.sha256(content).hexdigest() == hashed else {}
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError):  # the last of kinds it has not
        return {}
    frames = {int(step): image for step, image in given.items() if _is_step(step) and _is_frame(image)}
    return {step: np.ascontiguousarray(frames[step].transpose(1, 2, 0)) for step in sorted(frames)[:MOST_FRAMES]}


def _is_step(name: str) -> bool:
    return name.isdecimal() and len(name) < LONGEST_STEP


def _is_frame(image: np.ndarray[Any, Any]) -> bool:
    return (
        image.dtype == np.uint8 and image.ndim == 3 and len(image) == 3 and 0 < image.size and max(image.shape) <= SIDE
    )


def gone(run_dir: Path, names: Iterable[str]) -> list[str]:
    """The finished attacks whose picture or reconstructions are not in the run any more."""
    return [
        name
        for name in names
        if not (picture_path(run_dir, name).is_file() and reconstructions_path(run_dir, name).is_file())
    ]


def lost_and_gone(run_dir: Path, restored: int, names: Iterable[str]) -> list[str]:
    """What a run says of files that somebody removed, a line each; none where all is there.

    Args:
        run_dir: the run directory.
        restored: records that were gone at its end, and were written again.
        names: of the finished attacks.
    """
    lines = []
    if restored:
        lines.append(f"{run_dir} was emptied while the run went on: {restored} records were written again")
    if missing := gone(run_dir, names):
        lines.append(
            f"{len(missing)} finished attacks have no picture or reconstructions in {run_dir} any more, such as "
            f"{missing[0]}; delete their records and run the same command again to have them"
        )
    return [clean(line, ERROR_LIMIT) for line in lines]
