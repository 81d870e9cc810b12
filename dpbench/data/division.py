"""A pool of labelled images -> private, auxiliary and test parts that share no image."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from dpbench.contract.dataset import PartName
from dpbench.data.images import Pixels, content_hash
from dpbench.data.spec import DatasetSpec
from dpbench.errors import DpbenchError

VERSION = 1
"""Raise when the same images would be decoded or divided differently: it is part of the fingerprint."""

PARTS: tuple[PartName, ...] = get_args(PartName)
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
    strangers = None
    if spec.auxiliary_classes:
        train, test, strangers, classes = _separate(spec, train, test, classes)
    order = iter(_stratified(train.labels, spec.seed))
    sources: dict[str, tuple[Pool, Iterator[int]]] = dict.fromkeys(PARTS, (train, order))
    if test is not None:
        sources["test"] = (test, iter(_stratified(test.labels, spec.seed)))
    if strangers is not None:
        sources["auxiliary"] = (strangers, iter(_stratified(strangers.labels, spec.seed)))
    seen: set[str] = set()
    wanted = {name: getattr(spec, name) for name in ("test", "private", "auxiliary")}
    total, done = sum(wanted.values()), 0
    parts = {}
    for name, count in wanted.items():
        pool, source = sources[name]
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


def _attackers(spec: DatasetSpec, classes: int) -> NDArray[np.bool_]:
    """Which classes are the attacker's alone, (classes,); the seed of the data set decides."""
    if spec.auxiliary_classes > classes - 2:
        raise DpbenchError(
            f"{spec.name} has {classes} classes, of which auxiliary_classes = {spec.auxiliary_classes} are to be the "
            f"attacker's alone; expected at most {max(0, classes - 2)}, so that two are left for the task"
        )
    raw = np.random.PCG64(np.random.SeedSequence([spec.seed, classes])).random_raw(classes)
    chosen = np.zeros(classes, bool)
    chosen[np.argsort(raw, kind="stable")[: spec.auxiliary_classes]] = True
    return chosen


def of_the_task(spec: DatasetSpec, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The classes that are not the attacker's alone."""
    if not spec.auxiliary_classes:
        return classes
    attackers = _attackers(spec, len(classes))
    return tuple(name for name, attacker in zip(classes, attackers, strict=True) if not attacker)


def _separate(
    spec: DatasetSpec, train: Pool, test: Pool | None, classes: tuple[str, ...]
) -> tuple[Pool, Pool | None, Pool, tuple[str, ...]]:
    """The pools of the task, that of the attacker, and the classes of the task.

    Labels are numbered anew: the classes of the task from 0, and those of the attacker after them, so that none of
    its labels passes for one that a model knows.
    """
    attackers = _attackers(spec, len(classes))
    number = np.argsort(np.argsort(attackers, kind="stable"), kind="stable")

    def part(pool: Pool, keep: NDArray[np.bool_]) -> Pool:
        places = np.flatnonzero(keep)
        return Pool(number[pool.labels[places]], lambda wanted: pool.decode([int(places[i]) for i in wanted]))

    own_train = part(train, ~attackers[train.labels])
    own_test = None if test is None else part(test, ~attackers[test.labels])
    # the attacker may have every picture of its own people, those of the test folder too
    theirs = [part(pool, attackers[pool.labels]) for pool in (train, test) if pool is not None]
    return own_train, own_test, _joined(theirs), of_the_task(spec, classes)


def _joined(pools: list[Pool]) -> Pool:
    places = [(number, place) for number, pool in enumerate(pools) for place in range(len(pool.labels))]

    def decode(wanted: Sequence[int]) -> Generator[Pixels, None, None]:
        for number, run in itertools.groupby((places[index] for index in wanted), key=lambda entry: entry[0]):
            yield from pools[number].decode([place for _, place in run])

    return Pool(np.concatenate([pool.labels for pool in pools]), decode)


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


def assert_enough(spec: DatasetSpec, train: Labels, test: Labels | None, classes: int) -> None:
    """Counted before anything is decoded.

    Args:
        spec: how many images are wanted.
        train: (N,) labels of the training images, or of all where there is no test folder.
        test: (M,) labels of the test images.
        classes: how many there are.
    """
    lower = "lower private, auxiliary or test in [dataset], or add images"
    learning, wanted = spec.private + spec.auxiliary, f"private = {spec.private} and auxiliary = {spec.auxiliary}"
    everyone = f"private = {spec.private}, auxiliary = {spec.auxiliary} and test = {spec.test}"
    of_the_task = ""
    if spec.auxiliary_classes:
        attackers = _attackers(spec, classes)
        held = sum(int(attackers[labels].sum()) for labels in (train, test) if labels is not None)
        if spec.auxiliary > held:
            raise DpbenchError(
                f"{spec.name} has too few images of the attacker's classes: {held} of auxiliary_classes = "
                f"{spec.auxiliary_classes}, but auxiliary = {spec.auxiliary}; lower auxiliary or raise "
                "auxiliary_classes in [dataset]"
            )
        train, test = train[~attackers[train]], None if test is None else test[~attackers[test]]
        learning, wanted, everyone = (
            spec.private,
            f"private = {spec.private}",
            f"private = {spec.private} and test = {spec.test}",
        )
        of_the_task = f" of the {classes - spec.auxiliary_classes} classes that are not the attacker's"
    if test is None and learning + spec.test > len(train):
        raise DpbenchError(
            f"{spec.name} has too few images{of_the_task}: {len(train)}, but {everyone} together need "
            f"{learning + spec.test}; {lower}"
        )
    if test is not None and learning > len(train):
        raise DpbenchError(
            f"{spec.name} has too few training images{of_the_task}: {len(train)}, but {wanted} together need "
            f"{learning}; lower private or auxiliary in [dataset], or add images"
        )
    if test is not None and spec.test > len(test):
        raise DpbenchError(
            f"{spec.name} has too few test images{of_the_task}: {len(test)}, but test = {spec.test}; lower test in "
            "[dataset], or add images"
        )


def assert_disjoint(decoded: Decoded, *, advice: str) -> None:
    """The contract that every figure stands on; `advice` says what to do where it is broken."""
    for one, other in itertools.combinations(PARTS, 2):
        assert_disjoint_hashes(
            one,
            decoded.parts[one].hashes,
            other,
            decoded.parts[other].hashes,
            advice=advice,
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
