"""`dpbench verify`: does what lies in a run directory fit together? Finds damage, edits and exchanged files.

It reads and computes; it imports no plug-in and writes nothing. It does not measure again: who computes every figure,
image and digest anew is found by running the suite again alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from dpbench import __version__
from dpbench.cells.kept_images import KEPT, load_images
from dpbench.contract.attack import Attack
from dpbench.data.images import content_hash
from dpbench.errors import DpbenchError
from dpbench.gate.provenance import FILE, contradictions_of, is_entry
from dpbench.machine.plugin_files import file_hash
from dpbench.metrics.table import BUILT_IN
from dpbench.protocols.known import AnyProtocol, of_run
from dpbench.records.archive import is_archive
from dpbench.records.pictures import reconstructions_path, steps_path
from dpbench.records.ranges import SLACK
from dpbench.records.record import Envelope
from dpbench.records.store import picture_path
from dpbench.suite.ensembles import floors
from dpbench.suite.words import built_in

ROUNDED = 1 / 255
"""The most by which the difference of two images changes where both are rounded to 8 bits, in [0, 1]."""

TOLERANCE = {name: metric.rounding for name, metric in BUILT_IN.items()}
"""Metric -> by how much 8 bits may move its figure of an image; MSE and PSNR have exact limits, from `ROUNDED`."""


@dataclass
class Verified:
    """What was looked at, and what was found.

    Attributes:
        records: how many files.
        recomputed: images whose figures were computed again.
        findings: where, and what does not fit.
        remarks: what could not be looked at, or is no fault.
    """

    records: int = 0
    recomputed: int = 0
    findings: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """The outcome in one line."""
        looked = f"{self.records} records, the figures of {self.recomputed} images computed again"
        if not self.findings:
            return f"verified: nothing contradicts itself in {looked}"
        where = len({place for place, _ in self.findings})
        return f"failed: {len(self.findings)} findings in {where} files; {looked}"


def verify(run_dirs: Sequence[Path]) -> Verified:
    """Look through some runs, of any protocol: run directories, or files of records.

    Raises:
        DpbenchError: one of them is neither, or a file of records cannot be read to its end.
    """
    found = Verified()
    for run_dir in run_dirs:
        _verify_run(run_dir, of_run(run_dir), found)
    return found


def _verify_run(run_dir: Path, protocol: AnyProtocol, found: Verified) -> None:
    read = _read(run_dir, protocol, found)
    records = list(read.values())
    if not records and not found.findings:
        found.remarks.append(f"{run_dir}: no record in it")
    for place, record in read.items():
        found.findings += [(place, message) for message in _identity(record)]
    if is_entry(run_dir):
        said = contradictions_of(run_dir, records, found.remarks)
        found.findings += [(str(run_dir / FILE), message) for message in said]
    places = {record.id: place for place, record in read.items()}
    found.findings += [(places[name], message) for name, message in protocol.contradictions(records)]
    if is_archive(run_dir):
        found.remarks.append(f"{run_dir}: records without images; give the run directory to compute figures from them")
        return
    _look_at_images(run_dir, read, found)
    found.findings += _board(run_dir, protocol, records, found.remarks)


def _read(run_dir: Path, protocol: AnyProtocol, found: Verified) -> dict[str, Envelope]:
    """Place -> record, of those that can be read; each under its own name, and once."""
    read: dict[str, Envelope] = {}
    known: set[str] = set()
    unsealed = 0
    for stored in protocol.store.stored(run_dir):
        found.records += 1
        try:
            record, sealed = protocol.store.opened(stored)
        except DpbenchError as error:
            found.findings.append((stored.place, str(error)))
            continue
        if stored.name not in (None, record.id):
            found.findings.append((stored.place, f"is the record of {record.id}, under another name"))
        elif record.id in known:
            found.findings.append((stored.place, f"is a second record of {record.id}"))
        known.add(record.id)
        read[stored.place] = record
        unsealed += not sealed
    if unsealed:
        found.remarks.append(
            f"{run_dir}: {unsealed} records have no digest: from before there was one, or made to look so"
        )
    return read


def _look_at_images(run_dir: Path, read: Mapping[str, Envelope], found: Verified) -> None:
    """What the images of a run give away; an entry may come without them."""
    without = 0
    for place, record in read.items():
        if record.status != "ok" or not record.attacked:
            continue
        if is_entry(run_dir) and not reconstructions_path(run_dir, record.id).exists():
            without += 1
            continue
        images = _images(run_dir, record)
        found.findings += [(place, message) for message in images.messages]
        found.recomputed += images.count
    if without:
        found.remarks.append(f"{run_dir}: the images of {without} attacks are not in it; their figures are as told")


def _identity(record: Envelope) -> Iterator[str]:
    """Does the record say what its id says, and only of a floor that it is one?"""
    if record.id.rpartition("-")[2] != record.unit_measured.identity:
        yield "its id does not belong to what it says it measured"
    attack = getattr(record.unit_measured, "attack", None)
    known = None if attack is None else built_in(Attack).get(attack.name)
    if record.status == "ok" and attack is not None:
        if known is not None and record.floor != getattr(known, "floor", False):
            yield f"says that {attack.name!r} is {'a' if record.floor else 'no'} floor, which it is not"
        elif known is None and record.floor:
            yield f"says that {attack.name!r} is a floor, which only {', '.join(floors())} are"


@dataclass
class _Images:
    """What is wrong with the images of an attack, and how many were graded again."""

    messages: list[str] = field(default_factory=list)
    count: int = 0


def _images(run_dir: Path, record: Envelope) -> _Images:
    """Are pictures and reconstructions there, are they the ones of the record, and do they give its figures?"""
    found = _Images()
    tensors, picture = reconstructions_path(run_dir, record.id), picture_path(run_dir, record.id)
    for path in (tensors, picture):
        name = path.relative_to(run_dir).as_posix()
        if not path.is_file():
            found.messages.append(f"{name} is gone")
        elif name in record.kept and file_hash(path) != record.kept[name]:
            found.messages.append(f"{name} is not the file that was written with it")
        elif record.kept and name not in record.kept:
            found.messages.append(f"{name} was not written with it")
    steps = steps_path(run_dir, record.id)
    logged = steps.relative_to(run_dir).as_posix()
    if logged in record.kept and not (steps.is_file() and file_hash(steps) == record.kept[logged]):
        found.messages.append(f"{logged} is gone, or not the file that was written with it")
    if not tensors.is_file():
        return found
    try:
        victims, reconstructions = load_images(tensors)
    except DpbenchError as error:
        found.messages.append(str(error))
        return found
    expected = min(KEPT, len(record.victims))
    if {victims.dtype, reconstructions.dtype} != {torch.uint8}:
        found.messages.append(f"its reconstructions are {victims.dtype} and {reconstructions.dtype}, expected bytes")
        return found
    if len(victims) != expected:
        shapes = f"{tuple(victims.shape)} and {tuple(reconstructions.shape)}"
        found.messages.append(f"its reconstructions have the shapes {shapes}, expected {expected} pairs of one size")
        return found
    found.messages += _hashes(record, victims)
    found.messages += _figures(record, victims.float() / 255, reconstructions.float() / 255)
    found.count = expected
    return found


def _hashes(record: Envelope, victims: Tensor) -> Iterator[str]:
    """Are the victims that were kept those that were attacked?"""
    for place, (image, known) in enumerate(zip(victims, record.victims, strict=False)):
        if re.fullmatch("[0-9a-f]{16}", known) is None:
            yield f"victim {place} has no hash"
            return
        if content_hash(image.numpy()) != known:
            yield f"the image of victim {place} is another than the one that was attacked"
            return


def _figures(record: Envelope, victims: Tensor, reconstructions: Tensor) -> Iterator[str]:
    """Do the images give the figures? 8 bits say them less exactly than the attack had them."""
    from dpbench.metrics.grading import grade

    again, _ = grade(reconstructions, victims)
    for metric, figures in again.items():
        told = record.fidelity.get(metric)
        if told is None:
            continue
        for place, (recomputed, figure) in enumerate(zip(figures, told, strict=False)):
            low, high = _limits(metric, recomputed, again["mse"][place])
            if not low - SLACK <= figure <= high + SLACK:
                yield (
                    f"{metric} of victim {place} is {figure:.4f} in the record, {recomputed:.4f} by its images "
                    f"(8 bits leave {low:.4f} to {high:.4f})"
                )
                break


def _limits(metric: str, figure: float, mse: float) -> tuple[float, float]:
    """Between what the figure of an image lies before both images were rounded."""
    if metric in ("mse", "psnr_db"):
        root = math.sqrt(mse)
        least, most = max(0.0, root - ROUNDED) ** 2, (root + ROUNDED) ** 2
        return (least, most) if metric == "mse" else (_psnr(most), _psnr(least))
    return figure - TOLERANCE[metric], figure + TOLERANCE[metric]


def _psnr(mse: float) -> float:
    return -10 * math.log10(mse + 1e-8)  # piq's: at most 80 dB


def _board(
    run_dir: Path, protocol: AnyProtocol, records: Sequence[Envelope], remarks: list[str]
) -> Iterator[tuple[str, str]]:
    """Is the board of the run that of its records?"""
    path = run_dir / "board.csv"
    if not path.is_file():
        return
    try:
        if path.read_text(encoding="utf-8") == protocol.as_csv(protocol.board(protocol.newest(records))):
            return
    except (OSError, UnicodeDecodeError) as error:
        yield str(path), f"cannot be read: {error}"
        return
    except DpbenchError as error:
        yield str(path), f"cannot be compared, there is no board of these records: {error}"
        return
    mends = f"`dpbench leaderboard {run_dir} --output {path}` writes it again"
    here = {str(_version(record)) for record in records}
    if here == {__version__}:
        yield str(path), f"is not the board of these records; {mends}"
    else:
        remarks.append(f"{path} is not the board that this dpbench derives, records are of others; {mends}")


def _version(record: Envelope) -> object:
    versions = record.environment.get("versions")
    return versions.get("dpbench") if isinstance(versions, dict) else None
