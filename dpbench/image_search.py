"""Which image files lie below a folder: links are followed, never in circles, and what systems leave is no image."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from dpbench import images
from dpbench.errors import DpbenchError

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
            elif is_image(entry.name) and (linked or entry.is_file()):  # a link to nowhere is named when it is read
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
    return os.path.splitext(file)[1].lower() in images.ENDINGS


def in_words(others: collections.Counter[str]) -> str:
    """Files that are no images, such as `4 files that are no images (3 .txt, 1 .heic)`; empty where there are none."""
    if not (total := others.total()):
        return ""
    kinds = [f"{count} {ending}" for ending, count in sorted(others.items(), key=lambda item: (-item[1], item[0]))]
    more = [f"{len(kinds) - SHOWN} more endings"] if len(kinds) > SHOWN else []
    return f"{total} file{'s' * (total > 1)} of no known ending of images ({', '.join([*kinds[:SHOWN], *more])})"


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
