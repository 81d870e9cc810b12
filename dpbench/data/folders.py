"""A folder of class folders: which images are in it, and a hash of them, wherever the folder lies."""

from __future__ import annotations

import collections
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dpbench.data import images
from dpbench.data.division import Labels, Pool, assert_enough
from dpbench.data.images import Found, entries, find_images, in_words, is_image, subfolders
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError

TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")
"""Names of splits, in any case; of several test splits the first of these is taken."""


@dataclass(frozen=True)
class ClassFolders:
    """The image files of a folder of class folders: (path below the root, label), sorted. Nothing is decoded.

    Attributes:
        root: the folder.
        classes: names of the class folders, sorted, in the order of the labels.
        train: the images, or those of the training split.
        test: those of the test split; None where there is none.
        left_out: in words, each thing in the folder that is not taken, or is taken for something that it might not be.
    """

    root: Path
    classes: tuple[str, ...]
    train: list[tuple[str, int]]
    test: list[tuple[str, int]] | None
    left_out: tuple[str, ...] = ()

    @classmethod
    def look_into(cls, spec: DatasetSpec) -> ClassFolders:
        """Find the classes and their images.

        Raises:
            DpbenchError: not a folder of class folders, one that can be read in two ways, one class only, or too few
                images for the parts.
        """
        root = Path(spec.name).expanduser()
        train_name, test_name = _splits(root, spec.name)
        by_class = _images_by_class(root, train_name)
        train = {name: found.paths for name, found in by_class.items() if found.paths}
        classes = tuple(sorted(train))
        if not train_name:
            _refuse_splits(root, classes, spec.name)
        if len(classes) < 2:
            raise DpbenchError(
                f"{spec.name}: {_one_class(root, train_name, classes)}; expected at least two class folders with "
                "images: FOLDER/CLASS/*.jpg or FOLDER/{train,test}/CLASS/*.jpg"
            )
        held_out, test = dict[str, Found](), None
        if test_name:
            held_out = _images_by_class(root, test_name)
            test_paths = {name: found.paths for name, found in held_out.items() if found.paths}
            if extra := sorted(set(test_paths) - set(classes)):
                raise DpbenchError(
                    f"{spec.name}: class {extra[0]!r} is in {test_name}/ but not in {train_name}/; "
                    "expected the same class folders in both"
                )
            test = _flat(test_paths, classes)
        left_out = _left_out(root, train_name, test_name, classes, [*by_class.items(), *held_out.items()])
        folder = cls(root, classes, _flat(train, classes), test, left_out)
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

    def different(self) -> tuple[int, int]:
        """How many images there are to train on and to test on; files of the same content are one image."""
        test = {self._content(path) for path, _ in self.test or []}
        return len({self._content(path) for path, _ in self.train} - test), len(test)

    def _content(self, path: str) -> bytes:
        return hashlib.sha256(_read(f"{self.root}{os.sep}{path}")).digest()

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


def _splits(root: Path, name: str) -> tuple[str, str]:
    """The names of the folders for training and testing; both empty where the class folders lie directly in the root.

    Raises:
        DpbenchError: one without the other, or two of one name.
    """
    there = [
        folder
        for folder in subfolders(f"{root}")
        if folder.lower() in (*TRAIN_FOLDERS, *TEST_FOLDERS) and subfolders(f"{root / folder}")
    ]
    train = [folder for folder in there if folder.lower() in TRAIN_FOLDERS]
    test = sorted(set(there) - set(train), key=lambda one: (TEST_FOLDERS.index(one.lower()), one))
    if not train and not test:
        return "", ""
    for names in (train, [one for one in test if one.lower() == test[0].lower()]):
        if len(names) > 1:
            raise DpbenchError(
                f"{name} has {' and '.join(f'{one}/' for one in names)}; expected one of them: rename one"
            )
    if not test:
        raise DpbenchError(
            f"{name} has {train[0]}/ but no test/, val/ or valid/ with class folders beside it; "
            f"add one, or name {name}/{train[0]} to draw all parts from it; where it is a class, call it otherwise"
        )
    if not train:
        raise DpbenchError(
            f"{name} has {test[0]}/ but no train/ with class folders beside it; "
            f"add one, or name {name}/{test[0]} to draw all parts from it; where it is a class, call it otherwise"
        )
    return train[0], test[0]


def _refuse_splits(root: Path, classes: tuple[str, ...], name: str) -> None:
    """Refuse classes that are splits by their names, and classes that each hold splits."""
    train = [one for one in classes if one.lower() in TRAIN_FOLDERS]
    test = [one for one in classes if one.lower() in TEST_FOLDERS]
    if (train and test) or (classes and len(classes) == len(train + test)):
        raise DpbenchError(
            f"{name}: {', '.join(f'{one}/' for one in (*train, *test))} hold images but no class folders; expected "
            "FOLDER/{train,test}/CLASS/*.jpg: sort the images into class folders, or rename these if they are classes"
        )
    within = ({one.lower() for one in subfolders(f"{root / label}")} for label in classes)
    if classes and all(names & set(TRAIN_FOLDERS) and names & set(TEST_FOLDERS) for names in within):
        raise DpbenchError(
            f"{name}: each class folder has splits in it, such as {classes[0]}/train; expected "
            "FOLDER/{train,test}/CLASS/*.jpg: move them"
        )


def _images_by_class(root: Path, part: str) -> dict[str, Found]:
    """Class folder -> what is in it, and in the folders in it. One without images is no class.

    Raises:
        DpbenchError: a folder cannot be read, or one file is in two classes.
    """
    found: dict[str, Found] = {}
    owners: dict[str, str] = {}
    above = os.path.realpath(root)
    for name in subfolders(f"{root / part}"):
        below = os.path.join(part, name)
        real = os.path.realpath(root / below)
        if f"{above}{os.sep}".startswith(f"{real.rstrip(os.sep)}{os.sep}"):
            found[name] = Found(circles=1)  # a link to where it lies: all classes would be one
            continue
        found[name] = find_images(f"{root}", below)
        for target, path in found[name].real.items():
            if (other := owners.setdefault(target, path)) is not path:
                raise DpbenchError(f"{root}: {path} and {other} are one file, in two classes; remove one of the links")
    return found


def _left_out(
    root: Path, train: str, test: str, classes: tuple[str, ...], found: list[tuple[str, Found]]
) -> tuple[str, ...]:
    others: collections.Counter[str] = collections.Counter()
    for _, one in found:
        others += one.others
    loose = 0
    for part in dict.fromkeys(("", train, test)):
        files = [entry.name for entry in entries(f"{root / part}") if entry.is_file()]
        loose += sum(map(is_image, files))
    circles = sum(one.circles for _, one in found)
    beside = [f"{one}/" for one in subfolders(f"{root}") if one not in (train, test)] if train else []
    empty = sorted({f"{name}/" for name, one in found if not one.paths and not one.circles})
    split_names = [f"{one}/" for one in classes if one.lower() in (*TRAIN_FOLDERS, *TEST_FOLDERS)]
    said = {
        in_words(others): bool(others),
        f"{loose} image{'s' * (loose > 1)} in no class folder": bool(loose),
        f"{circles} link{'s' * (circles > 1)} that lead{'s' * (circles == 1)} back": bool(circles),
        f"{', '.join(beside)} beside {train}/ and {test}/": bool(beside),
        f"{', '.join(empty)} without images": bool(empty),
    }
    left = "; ".join(text for text, is_so in said.items() if is_so)
    return (
        *([f"left out: {left}"] if left else []),
        *([f"{', '.join(split_names)} taken for a class, not for a split"] if split_names else []),
    )


def _one_class(root: Path, part: str, classes: tuple[str, ...]) -> str:
    """What is in a folder that has fewer than two classes."""
    if not classes:
        return _what_is_in(root)
    inner = root / part / classes[0]
    nested = f"; if the classes lie in it, name {inner}" if len(subfolders(f"{inner}")) > 1 else ""
    return f"only one class ({classes[0]}){nested}"


def _what_is_in(root: Path) -> str:
    names = sorted(entry.name for entry in entries(f"{root}"))
    if not names:
        return "the folder is empty"
    loose = sum(map(is_image, names))
    if loose:
        return f"{loose} images lie directly in it, not in class folders"
    return f"no class folder in it holds images ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
