"""A folder of class folders: which images are in it, and a hash of them, wherever the folder lies."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dpbench import images
from dpbench.division import Labels, Pool, assert_enough
from dpbench.errors import DpbenchError
from dpbench.specs import DatasetSpec

TRAIN_FOLDER, TEST_FOLDERS = "train", ("test", "val", "valid")


@dataclass(frozen=True)
class ClassFolders:
    """The image files of a folder of class folders: (path below the root, label), sorted. Nothing is decoded."""

    root: Path
    classes: tuple[str, ...]
    train: list[tuple[str, int]]
    test: list[tuple[str, int]] | None

    @classmethod
    def look_into(cls, spec: DatasetSpec) -> ClassFolders:
        """Find the classes and their images.

        Raises:
            DpbenchError: not a folder of class folders, one class only, or too few images for the parts.
        """
        root = Path(spec.name).expanduser()
        entries = _subfolders(root)
        test_name = None
        if TRAIN_FOLDER in entries and _subfolders(root / TRAIN_FOLDER):
            test_name = next((name for name in TEST_FOLDERS if name in entries and _subfolders(root / name)), None)
            if test_name is None:
                raise DpbenchError(
                    f"{spec.name} has {TRAIN_FOLDER}/ but no test/, val/ or valid/ with class folders beside it; "
                    f"add one, or name {spec.name}/{TRAIN_FOLDER} to draw all parts from it"
                )
        train = _images_by_class(root, TRAIN_FOLDER if test_name else "")
        classes = tuple(sorted(train))
        if len(classes) < 2:
            found = f"only one class ({classes[0]})" if classes else _what_is_in(root)
            raise DpbenchError(
                f"{spec.name}: {found}; expected at least two class folders with images: "
                "FOLDER/CLASS/*.jpg or FOLDER/{train,test}/CLASS/*.jpg"
            )
        test = None
        if test_name:
            by_class = _images_by_class(root, test_name)
            if extra := sorted(set(by_class) - set(classes)):
                raise DpbenchError(
                    f"{spec.name}: class {extra[0]!r} is in {test_name}/ but not in {TRAIN_FOLDER}/; "
                    "expected the same class folders in both"
                )
            test = _flat(by_class, classes)
        folder = cls(root, classes, _flat(train, classes), test)
        assert_enough(spec, _labels(folder.train), None if test is None else _labels(test), len(classes))
        return folder

    def digest(self) -> str:
        """SHA-256 over paths below the root and file contents: moving the folder does not change it."""
        total = hashlib.sha256()
        for path, _ in [*self.train, *(self.test or [])]:
            content = _read(f"{self.root}{os.sep}{path}")
            total.update(f"{path.replace(os.sep, '/')}\0{len(content)}\0".encode("utf-8", "surrogateescape"))
            total.update(content)
        return total.hexdigest()

    def pools(self, size: int) -> tuple[Pool, Pool | None, tuple[str, ...]]:
        """Training and test pool, and the names of the classes."""
        return self._pool(self.train, size), None if self.test is None else self._pool(self.test, size), self.classes

    def _pool(self, files: list[tuple[str, int]], size: int) -> Pool:
        return Pool(
            _labels(files),
            lambda indices: images.decode_files([self.root / files[index][0] for index in indices], size),
        )


def _flat(by_class: dict[str, list[str]], classes: tuple[str, ...]) -> list[tuple[str, int]]:
    return [(path, classes.index(name)) for name in sorted(by_class) for path in by_class[name]]


def _labels(files: list[tuple[str, int]]) -> Labels:
    return np.array([label for _, label in files], np.int64)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise DpbenchError(f"image {path} cannot be read ({error.strerror}); make it readable") from error


def _subfolders(folder: Path) -> list[str]:
    """Names of the folders in it, hidden ones left out."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise _unreadable(error, folder) from error


def _images_by_class(root: Path, part: str) -> dict[str, list[str]]:
    """Class -> sorted paths below `root`. A class folder may have folders in it; one without images is no class."""

    def refuse(error: OSError) -> None:
        raise _unreadable(error, base) from error

    base = root / part if part else root
    found: dict[str, list[str]] = {}
    for name in _subfolders(base):
        paths = [
            os.path.relpath(folder, root) + os.sep + file
            for folder, _, files in os.walk(base / name, onerror=refuse, followlinks=True)
            for file in files
            if _is_image(file)
        ]
        if paths:
            found[name] = sorted(paths)
    return found


def _is_image(file: str) -> bool:
    return os.path.splitext(file)[1].lower() in images.ENDINGS and not file.startswith(".")


def _unreadable(error: OSError, folder: Path) -> DpbenchError:
    return DpbenchError(f"folder {error.filename or folder} cannot be read ({error.strerror}); make it readable")


def _what_is_in(root: Path) -> str:
    names = sorted(name for name in os.listdir(root) if not name.startswith("."))
    if not names:
        return "the folder is empty"
    loose = sum(_is_image(name) for name in names)
    if loose:
        return f"{loose} images lie directly in it, not in class folders"
    return f"no class folder in it holds images ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
