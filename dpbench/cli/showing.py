"""What `dpbench show` lists: the finished attacks of a run, of either protocol, and if their pictures are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dpbench.errors import DpbenchError
from dpbench.machine.writing import write_atomically
from dpbench.protocols.known import of_run
from dpbench.records.archive import is_archive
from dpbench.records.pictures import reconstructions_path
from dpbench.records.store import picture_path
from dpbench.suite.overrides import matches_any
from dpbench.text.shown_text import ERROR_LIMIT, clean


@dataclass(frozen=True)
class Shown:
    """A finished attack.

    Attributes:
        name: of its record and picture.
        patterns: what a pattern may occur in; the first is its label, the second says all parameters too.
        defense: heads its row in a comparison.
        note: which attack, and its mean SSIM.
        record: the file.
        picture: the file, which may be gone.
        reconstructions: likewise.
    """

    name: str
    patterns: tuple[str, ...]
    defense: str
    note: str
    record: Path
    picture: Path
    reconstructions: Path

    def needed(self, file: Path) -> Path:
        """A file of the run that is needed now.

        Raises:
            DpbenchError: it is gone.
        """
        if not file.is_file():
            raise DpbenchError(
                f"{file} of {clean(self.patterns[0])!r} is gone; delete {self.record} and run the suite again, which "
                "redoes that part alone"
            )
        return file


def shown(directory: Path, patterns: Sequence[str] | None = None) -> list[Shown]:
    """The finished attacks of a run, by name; with patterns those in whose label one occurs.

    Raises:
        DpbenchError: not a run directory, a record in it cannot be read, nothing to show, or a pattern that
            occurs nowhere.
    """
    there = list(_attacks(directory))
    if not there:
        raise DpbenchError(f"{directory} holds no finished attack: nothing to show; `dpbench run` finishes a run")
    found: list[Shown] = []
    for pattern in patterns or ["*"]:
        matching = [one for one in there if matches_any(pattern, one.patterns)]
        if not matching:
            raise DpbenchError(
                f"no attack in {directory} matches {clean(repr(pattern))}; its attacks look like "
                f"{clean(repr(there[0].patterns[0]))}; `dpbench show {directory}` lists them all"
            )
        found += matching
    return list(dict.fromkeys(found))


def listed(found: Sequence[Shown]) -> Iterator[str]:
    """A line for each: the path of its picture, or that there is none, and its name: in full where labels are alike."""
    of_label = Counter(one.patterns[0] for one in found)
    for one in found:
        label, full = one.patterns[:2]
        there = clean(one.picture, ERROR_LIMIT) if one.picture.is_file() else "(its picture is gone)"
        yield f"{there}  {clean(full if of_label[label] > 1 else label)}"


def _attacks(directory: Path) -> Iterable[Shown]:
    protocol = of_run(directory)
    for record in protocol.store.all(directory):
        if record.status == "ok" and record.attacked and record.victims:
            heading, note = protocol.caption(record)
            yield Shown(
                record.id,
                (record.named.label, record.named.full, record.id),
                heading,
                note,
                protocol.store.path(directory, record.id),
                picture_path(directory, record.id),
                reconstructions_path(directory, record.id),
            )


def write_shown(directory: Path, found: Sequence[Shown], output: Path) -> None:
    """The picture of one attack, or a row for each of several.

    Raises:
        DpbenchError: another ending than .png, what it takes is gone from the run, the victims differ, or the file
            cannot be written.
    """
    device_or_folder = output.exists() and not output.is_file()
    if output.suffix.lower() != ".png" and not device_or_folder:
        raise DpbenchError(f"--output {output}: a picture of reconstructions ends in .png")
    if is_archive(directory):
        raise DpbenchError(f"{directory} holds records alone, no images; give the run directory that they are of")
    if len(found) == 1:
        content = found[0].needed(found[0].picture).read_bytes()
        write_atomically(output, lambda temporary: temporary.write_bytes(content))
        return
    from dpbench.reporting.overview import write_comparison

    for one in found:
        one.needed(one.reconstructions)
    write_comparison(directory, [(one.defense, _note(one, found), one.name) for one in found], output)


def _note(one: Shown, beside: Sequence[Shown]) -> str:
    """Its note; where others have the same label, with the parameters that not all of these have."""
    parameters = [alike.patterns[1].split() for alike in beside if alike.patterns[0] == one.patterns[0]]
    own = [word for word in one.patterns[1].split() if not all(word in words for words in parameters)]
    attack, comma, rest = one.note.partition(",")
    return " ".join([attack, *own]) + comma + rest
