"""Image files of any kind -> (3,S,S) uint8 RGB, and the hash that says whether two of them are the same."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import EpsImagePlugin, Image, ImageOps, UnidentifiedImageError

from dpbench.errors import DpbenchError

Pixels = NDArray[np.uint8]

AHEAD = 4
"""Decoded images that each thread may have waiting."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of what is opened, whatever a file is called: other formats may start programs (EPS) or hide pages."""

ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def to_uint8_array(path_or_file: str | Path | BinaryIO, size: int) -> Pixels:
    """Decode one image: (3,size,size) uint8 RGB, upright, the short side resized to `size`, centre-cropped.

    Grey is replicated, transparency laid on white, 16 bits are scaled to 8 (65535 -> 255), CMYK is converted; of
    several pages or frames the first is taken.

    Raises:
        DpbenchError: the file cannot be read or decoded; the message names it.
    """
    with _careful_pillow():
        return _decode(path_or_file, size)


def decode_files(paths: Sequence[Path], size: int) -> Generator[Pixels, None, None]:
    """`to_uint8_array` of many files, in their order, several at a time; see `in_threads`."""
    return in_threads(lambda path: _decode(path, size), paths)


def decoding_threads() -> int:
    """One for each core that this process may use, up to 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, cores)


def in_threads(
    decode: Callable[[Any], Pixels], items: Iterable[Any], threads: int | None = None
) -> Generator[Pixels, None, None]:
    """`decode` of each item, in order, on several threads (Pillow decodes without holding Python's lock).

    The threads run ahead of whoever takes the images, by `AHEAD` for each of them and no more: however many items
    there are, memory holds a few.

    Args:
        decode: one item -> (3,S,S) uint8.
        items: what to decode.
        threads: by default `decoding_threads()`.
    """
    threads = threads or decoding_threads()
    waiting: collections.deque[Future[Pixels]] = collections.deque()
    with _careful_pillow(), ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(decode, item))
                if len(waiting) > AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)  # after an error: else the rest is decoded before it is seen


def content_hash(pixels: Pixels) -> str:
    """SHA-256 of the pixels, 16 hex digits: equal images have equal hashes."""
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()[:16]


@contextlib.contextmanager
def _careful_pillow() -> Iterator[None]:
    """An image too large to be true is an error; oddities in its metadata concern nobody; no Ghostscript is started.

    Entered once around a pool, not in each thread: all of this belongs to the whole process.
    """
    ghostscript = EpsImagePlugin.gs_binary
    # data sets of other packages open files themselves, in any format
    EpsImagePlugin.gs_binary = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        EpsImagePlugin.gs_binary = ghostscript


def _decode(source: str | Path | BinaryIO, size: int) -> Pixels:
    name = source if isinstance(source, str | Path) else getattr(source, "name", "(in memory)")
    try:
        with Image.open(source, formats=FORMATS) as image:
            return from_pillow(image, size)
    except PermissionError as error:
        raise DpbenchError(f"image {name} cannot be read ({error.strerror}); make it readable") from error
    except FileNotFoundError as error:
        raise DpbenchError(f"image {name} is gone; run again when nothing changes the folder") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DpbenchError(
            f"image {name} has more pixels than Pillow takes for safe ({Image.MAX_IMAGE_PIXELS}); "
            "make it smaller or delete it"
        ) from error
    except DpbenchError as error:
        raise DpbenchError(f"image {name}: {error}") from error
    except Exception as error:  # a damaged file may raise anything from a decoder
        unknown = f"not an image of a format that is read: {', '.join(FORMATS)}"
        reason = unknown if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
        raise DpbenchError(f"image {name} cannot be decoded ({reason}); replace it or delete it") from error


def from_pillow(image: Image.Image, size: int) -> Pixels:
    """(3,size,size) uint8 of an opened image of any mode; see `to_uint8_array`.

    Raises:
        DpbenchError: it was opened from a file of another format than `FORMATS`.
    """
    # MPO is what Pillow calls a JPEG with further pictures behind it; what was never a file has no format
    if image.format not in (*FORMATS, "MPO", None):
        raise DpbenchError(f"its format is {image.format}, expected {', '.join(FORMATS)}: convert it")
    rgb = to_rgb(ImageOps.exif_transpose(image))
    short = min(rgb.size)
    left, top = (rgb.width - short) // 2, (rgb.height - short) // 2
    # crop and resize in one step: a picture of 10,000 x 1 pixels must not become one of 320,000 x 32
    square = rgb.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + short, top + short))
    return np.ascontiguousarray(np.asarray(square, np.uint8).transpose(2, 0, 1))


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB of 8 bits: see `to_uint8_array`.

    Raises:
        DpbenchError: its pixels are floating-point numbers, or no 16 bits hold them.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode == "F":
        raise DpbenchError("its pixels are floating-point numbers; expected 8 or 16 bits, so convert it")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        straight = image.convert({"RGBa": "RGBA", "La": "LA"}.get(image.mode, image.mode)).convert("RGBA")
        white = Image.new("RGBA", straight.size, "white")
        return Image.alpha_composite(white, straight).convert("RGB")
    return image.convert("RGB")


def _eight_bits(grey: NDArray[Any]) -> Pixels:
    """16-bit grey (Pillow may hold it in 32) to 8 bits, rounded: 65535 / 257 = 255."""
    wide = grey.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise DpbenchError("its pixels are outside 0 to 65535; expected 8 or 16 bits, so convert it")
    return ((wide + 128) // 257).astype(np.uint8)


LEFT_BY_SYSTEMS = frozenset(
    {
        *("__macosx", "@eadir", "@tmp", "#recycle", "$recycle.bin", "lost+found", "system volume information"),
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "__pycache__"),
    }
)
"""Names, in lower case, of folders and files that are nobody's images; so is what is hidden."""

SHOWN = 3
"""Endings that are named of files that are left out."""


@dataclass
class Found:
    """What lies below one folder.

    Attributes:
        paths: of the images, below the root, sorted.
        real: the file itself, whatever links lead there -> its path in `paths`.
        others: ending -> how many files are no images by it.
        circles: links that lead back to where the search has been.
    """

    paths: list[str] = field(default_factory=list)
    real: dict[str, str] = field(default_factory=dict)
    others: collections.Counter[str] = field(default_factory=collections.Counter)
    circles: int = 0


def find_images(root: str, below: str) -> Found:
    """The images in the folder `below` the root, and in the folders in it; each file once, however it is reached.

    Args:
        root: a folder.
        below: path of a folder in it.

    Raises:
        DpbenchError: a folder cannot be read.
    """
    found = Found()
    start = os.path.realpath(f"{root}{os.sep}{below}")
    been = set(_above(start))
    folders, links = [below], list[str]()
    files: list[tuple[bool, str, str]] = []
    while folders or links:
        folder = folders.pop() if folders else links.pop()  # what is reached without a link has its own path
        real = os.path.realpath(f"{root}{os.sep}{folder}")
        if real in been:
            found.circles += 1
            continue
        been.add(real)
        for entry in sorted(entries(f"{root}{os.sep}{folder}"), key=lambda one: one.name):  # the same on every disk
            path, linked = f"{folder}{os.sep}{entry.name}", entry.is_symlink()
            if _is_folder(entry):
                (links if linked else folders).append(path)
            elif is_image(entry.name) and _may_be_read(entry):
                target = os.path.realpath(entry.path) if linked else f"{real}{os.sep}{entry.name}"
                files.append((linked, path, target))
            else:
                found.others[os.path.splitext(entry.name)[1].lower() or "no ending"] += 1
    for _, path, target in sorted(files):
        found.real.setdefault(target, path)
    found.paths = sorted(found.real.values())
    return found


def subfolders(folder: str) -> list[str]:
    """Names of the folders in it, but for those that are nobody's."""
    return sorted(entry.name for entry in entries(folder) if _is_folder(entry))


def entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """What is in a folder, but for what is hidden or left by systems.

    Raises:
        DpbenchError: it cannot be read.
    """
    try:
        with os.scandir(folder) as there:
            for entry in there:
                if not entry.name.startswith(".") and entry.name.lower() not in LEFT_BY_SYSTEMS:
                    yield entry
    except OSError as error:
        raise DpbenchError(
            f"folder {error.filename or folder} cannot be read ({error.strerror}); make it readable"
        ) from error


def is_image(file: str) -> bool:
    """By its ending, in any case."""
    return os.path.splitext(file)[1].lower() in ENDINGS


def in_words(others: collections.Counter[str]) -> str:
    """Files that are no images, such as `4 files that are no images (3 .txt, 1 .heic)`; empty where there are none."""
    if not (total := others.total()):
        return ""
    kinds = [f"{count} {ending}" for ending, count in sorted(others.items(), key=lambda item: (-item[1], item[0]))]
    more = [f"{len(kinds) - SHOWN} more endings"] if len(kinds) > SHOWN else []
    return f"{total} file{'s' * (total > 1)} of no known ending of images ({', '.join([*kinds[:SHOWN], *more])})"


def _may_be_read(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file, or a link to one or to nowhere, which is named when it is read; no pipe or device."""
    if not entry.is_symlink():
        return entry.is_file()
    return os.path.isfile(entry.path) or not os.path.exists(entry.path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself


def _above(folder: str) -> Iterator[str]:
    """The folders that hold it."""
    while (folder := os.path.dirname(folder)) != os.path.dirname(folder):
        yield folder
    yield folder
