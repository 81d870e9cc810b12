"""A pool of labelled images -> private, auxiliary and test parts that share no image."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpbench.errors import DpbenchError
from dpbench.images import Pixels, content_hash
from dpbench.specs import DatasetSpec

VERSION = 1
"""Raise when the same images would be decoded or divided differently: it is part of the fingerprint."""

PARTS = ("private", "auxiliary", "test")
Labels = NDArray[np.int64]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Pool:
    """Images that are decoded when they are asked for, in the order of the places asked for. `labels` is (N,)."""

    labels: Labels
    decode: Callable[[Sequence[int]], Generator[Pixels, None, None]]


@dataclass(frozen=True)
class Part:
    """Labels (N,) of decoded images, and a content hash of each image."""

    labels: Labels
    hashes: list[str]


@dataclass(frozen=True)
class Decoded:
    """The parts by name, and the names of the classes."""

    parts: dict[str, Part]
    classes: tuple[str, ...]


def divide(
    spec: DatasetSpec,
    train: Pool,
    test: Pool | None,
    classes: tuple[str, ...],
    progress: Progress,
    write: Callable[[str, int, Pixels], None],
) -> Decoded:
    """Test images first, so that more private or auxiliary images do not change them; no image twice.

    Each image goes to `write(part, place, image)` as soon as it is decoded; none is kept.
    """
    if len(classes) < 2:
        raise DpbenchError(f"{spec.name} has only one class ({', '.join(classes)}); expected at least two")
    order = iter(_stratified(train.labels, spec.seed))
    test_order = order if test is None else iter(_stratified(test.labels, spec.seed))
    seen: set[str] = set()
    wanted = {name: getattr(spec, name) for name in ("test", "private", "auxiliary")}
    total, done = sum(wanted.values()), 0
    parts = {}
    for name, count in wanted.items():
        pool, source = (test or train, test_order) if name == "test" else (train, order)
        report = functools.partial(_report, progress, done, total)
        part = _take(pool, source, count, seen, report, functools.partial(write, name))
        if part is None:
            raise DpbenchError(
                f"{spec.name} has too few different images: without duplicates its {len(pool.labels)} do not make up "
                f"{count} {name} images beside the other parts; lower private, auxiliary or test in [dataset]"
            )
        parts[name] = part
        done += count
    return Decoded({name: parts[name] for name in PARTS}, classes)


def _report(progress: Progress, before: int, total: int, taken: int) -> None:
    progress(f"decoding {before + taken}/{total}")


def _take(
    pool: Pool,
    order: Iterator[int],
    count: int,
    seen: set[str],
    progress: Callable[[int], None],
    write: Callable[[int, Pixels], None],
) -> Part | None:
    """The next `count` images that were not seen yet; None where the pool does not hold so many."""
    labels: list[int] = []
    hashes: list[str] = []
    while len(hashes) < count:
        indices = list(itertools.islice(order, count - len(hashes)))
        if not indices:
            return None
        with contextlib.closing(pool.decode(indices)) as decoded:
            for done, (index, image) in enumerate(zip(indices, decoded, strict=True)):
                if done % 512 == 0:
                    progress(len(hashes))
                digest = content_hash(image)
                if digest not in seen:
                    seen.add(digest)
                    write(len(hashes), image)
                    labels.append(int(pool.labels[index]))
                    hashes.append(digest)
    return Part(np.array(labels, np.int64), hashes)


def _stratified(labels: Labels, seed: int) -> list[int]:
    """All positions in random order, such that any run of them holds the classes in proportion."""
    raw = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(2 * len(labels))
    shuffled = np.argsort(raw[: len(labels)], kind="stable")
    jitter = (raw[len(labels) :] >> np.uint64(11)).astype(np.float64) / (1 << 53)
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        position[members] = (np.arange(len(members)) + jitter[members]) / len(members)
    return [int(index) for index in np.argsort(position, kind="stable")]


def assert_enough(spec: DatasetSpec, train: int, test: int | None) -> None:
    """Counted before anything is decoded."""
    learning = spec.private + spec.auxiliary
    lower = "lower private, auxiliary or test in [dataset], or add images"
    if test is None and learning + spec.test > train:
        raise DpbenchError(
            f"{spec.name} has too few images: {train}, but private = {spec.private}, auxiliary = {spec.auxiliary} and "
            f"test = {spec.test} together need {learning + spec.test}; {lower}"
        )
    if test is not None and learning > train:
        raise DpbenchError(
            f"{spec.name} has too few training images: {train}, but private = {spec.private} and auxiliary = "
            f"{spec.auxiliary} together need {learning}; lower private or auxiliary in [dataset], or add images"
        )
    if test is not None and spec.test > test:
        raise DpbenchError(
            f"{spec.name} has too few test images: {test}, but test = {spec.test}; lower test in [dataset], "
            "or add images"
        )


def assert_disjoint(decoded: Decoded) -> None:
    """The contract that every figure stands on."""
    for one, other in itertools.combinations(PARTS, 2):
        assert_disjoint_hashes(
            one,
            decoded.parts[one].hashes,
            other,
            decoded.parts[other].hashes,
            advice="Delete the cached data set and run again; if it comes back, this is a bug in dpbench",
        )


def assert_disjoint_hashes(
    one: str,
    hashes: Sequence[str],
    other: str,
    other_hashes: Sequence[str],
    *,
    advice: str = "Choose another data set for [shifted]",
) -> None:
    """Two parts by their content hashes.

    Raises:
        DpbenchError: they share an image.
    """
    shared = set(hashes) & set(other_hashes)
    if shared:
        raise DpbenchError(
            f"the {one} and {other} images share {len(shared)} images ({min(shared)}, ...); they must be disjoint. "
            f"{advice}"
        )
