"""`dpbench score`: a metric of the images that a run keeps, after the fact; no attack runs again."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from dpbench.cells.kept_images import hashes_of, load_images
from dpbench.contract.metric import MetricFacts
from dpbench.errors import DpbenchError, unknown
from dpbench.machine.writing import write_atomically
from dpbench.metrics.grading import grade
from dpbench.metrics.table import BUILT_IN
from dpbench.plugins import measuring
from dpbench.plugins.registry import metrics as known_metrics
from dpbench.protocols.known import AnyProtocol, of_run
from dpbench.records.archive import is_archive
from dpbench.records.pictures import reconstructions_path
from dpbench.records.record import Envelope
from dpbench.suite.grid import own_metrics


@dataclass(frozen=True)
class Score:
    """The figures of one attack by one metric.

    Attributes:
        record: of the attack.
        metric: its column.
        figures: one for each victim whose images are kept, the first ones.
        recorded: whether these are all victims, so that the record holds the figures now.
    """

    record: Envelope
    metric: str
    figures: list[float]
    recorded: bool

    @property
    def mean(self) -> float:
        """Over the victims whose images are kept."""
        return sum(self.figures) / len(self.figures)


@dataclass
class Scored:
    """What was measured, and what was not.

    Attributes:
        scores: what was measured.
        known: what records held already.
        remarks: why nothing else was, a line each.
        files: that were written.
    """

    scores: list[Score] = field(default_factory=list)
    known: list[Score] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def score(run_dir: Path, names: Sequence[str], progress: Callable[[str], None] = lambda text: None) -> Scored:
    """Measure the images that a run keeps by further metrics.

    A run keeps the first 16 victims of each attack, in 8 bits. All figures go to `DIR/scores/METRIC.csv`; where an
    attack had no more victims than that, also into its record, which says so (`scored`), and into the board.

    Args:
        run_dir: of any protocol.
        names: dpbench's own metrics by name, others as `path/to/file.py:Name`.
        progress: shows a short text.

    Raises:
        DpbenchError: no run directory, an unknown metric, or images that are not those of the records.
    """
    if is_archive(run_dir):
        raise DpbenchError(f"{run_dir} holds records alone, no images; give the run directory that they are of")
    protocol = of_run(run_dir)
    measures = [_measure(name) for name in names]
    found = Scored()
    for record in list(protocol.store.all(run_dir)):
        if record.status == "ok" and record.attacked:
            progress(record.named.label)
            _score(run_dir, protocol, record, measures, found)
    for metric in dict.fromkeys(one.metric for one in found.scores):
        both = sorted([*found.known, *found.scores], key=lambda one: one.record.id)
        found.files.append(_write(run_dir / "scores" / f"{metric}.csv", metric, both))
    if any(one.recorded for one in found.scores):
        records = protocol.store.counted([run_dir], protocol.newest)
        text = protocol.as_csv(protocol.board(records))
        write_atomically(run_dir / "board.csv", lambda path: path.write_text(text, encoding="utf-8", newline="\n"))
        found.files.append(run_dir / "board.csv")
    return found


@dataclass(frozen=True)
class _Measure:
    """A metric: its column, how it is read if it is not dpbench's own, and what gives figures or says why not."""

    metric: str
    facts: MetricFacts | None
    figures: Callable[[Tensor, Tensor], tuple[dict[str, list[float]], dict[str, str]]]


def _measure(name: str) -> _Measure:
    if name in BUILT_IN:
        return _Measure(name, None, lambda images, victims: grade(images, victims, metrics=[name]))
    if ".py:" not in name and name not in known_metrics():
        raise unknown("metric", name, known_metrics())
    specs = own_metrics([name])
    (facts,) = measuring.facts_of(specs)
    return _Measure(facts.name, facts, lambda images, victims: measuring.measure(specs, images, victims))


def _score(run_dir: Path, protocol: AnyProtocol, record: Envelope, measures: Sequence[_Measure], found: Scored) -> None:
    label = record.named.label
    path = reconstructions_path(run_dir, record.id)
    kept = path.relative_to(run_dir).as_posix()
    if not path.is_file():
        found.remarks.append(f"{label}: its images are gone")
        return
    if record.kept and hashes_of(run_dir, (path,)) != {kept: record.kept.get(kept)}:
        raise DpbenchError(f"{path} is not the file that was written with its record; `dpbench verify` says more")
    victims, images = (tensor.float() / 255 for tensor in load_images(path))
    whole = len(victims) == len(record.victims)
    for one in measures:
        if len(record.fidelity.get(one.metric, [])) == len(record.victims):
            found.known.append(Score(record, one.metric, record.fidelity[one.metric], True))
            continue
        figures, missing = one.figures(images, victims)
        if one.metric not in figures:
            found.remarks.append(f"{label}: no {one.metric}: {missing[one.metric]}")
            continue
        record = _with_figures(record, one, figures[one.metric]) if whole else record
        found.scores.append(Score(record, one.metric, figures[one.metric], whole))
    if whole and any(one.record.id == record.id for one in found.scores):
        protocol.store.write(run_dir, record)


def _with_figures(record: Envelope, one: _Measure, figures: list[float]) -> Envelope:
    others = [facts for facts in record.metrics if facts.name != one.metric]
    return record.model_copy(
        update={
            "fidelity": {**record.fidelity, one.metric: figures},
            "missing_metrics": {name: why for name, why in record.missing_metrics.items() if name != one.metric},
            "metrics": others if one.facts is None else [*others, one.facts],
            "scored": sorted({*record.scored, one.metric}),
        }
    )


def _write(path: Path, metric: str, scores: Sequence[Score]) -> Path:
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow(["id", "label", "victim", "victim_hash", metric])
    for one in scores:
        if one.metric == metric:
            pairs = enumerate(zip(one.record.victims, one.figures, strict=False))
            rows = [[one.record.id, one.record.named.label, place, victim, f] for place, (victim, f) in pairs]
            writer.writerows(rows)
    write_atomically(path, lambda file: file.write_text(sheet.getvalue(), encoding="utf-8", newline="\n"))
    return path
