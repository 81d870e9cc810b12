"""A protocol is a plug-in: a third one, in this file alone, goes through every verb."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pandas as pd
import pytest
import torch

import dpbench as package
from dpbench.board.columns import BoardKind, Layout
from dpbench.cells.kept_images import keep_images
from dpbench.contract.spec import Spec
from dpbench.errors import DpbenchError
from dpbench.metrics.grading import grade
from dpbench.protocols import boards, known
from dpbench.records.record import Envelope
from dpbench.records.store import Store
from dpbench.running.options import Options
from dpbench.running.protocol import Lab, Plan, Planned, Protocol
from dpbench.text.hashing import content_hash

SUITE = 'name = "dim"\nprotocol = "dimming"\nfactors = [1.0, 0.5]\n'


class Dimmed(Spec):
    """One factor by which images are darkened before somebody looks at them."""

    factor: float

    @property
    def identity(self) -> str:
        return content_hash(self.model_dump())[:10]

    @property
    def id(self) -> str:
        return f"dimmed-{self.factor}-{self.identity}"

    asked = id


class DimmingSuite(Spec):
    protocol: str
    name: str
    factors: list[float]


class DimmingRecord(Envelope):
    unit: Dimmed


class DimmingLab(Lab[Dimmed]):
    device = torch.device("cpu")

    def measure(self, unit: Dimmed, plan: Plan, stages, progress) -> dict:
        if unit.factor < 0:
            raise ValueError("light cannot be negative")
        images = torch.linspace(0, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)
        with stages("dimming"):
            fidelity, missing = grade(images * unit.factor, images)
        result = SimpleNamespace(victims=images, reconstructions=images * unit.factor, fidelity=fidelity)
        return {
            "fidelity": fidelity,
            "missing_metrics": missing,
            "victims": ["a" * 16, "b" * 16],
            "kept": keep_images(plan.output, unit.id, result, title=unit.id),
        }


class Dimming(Protocol[Dimmed, DimmingRecord]):
    name: ClassVar = "dimming"
    unit: ClassVar = "lamp"
    suite: ClassVar = DimmingSuite
    store: ClassVar = Store("dimming", DimmingRecord)
    boards: ClassVar = BoardKind(Layout(("suite", "factor"), lambda row: f"{row[0]} at {row[1]}"))

    def plan(self, suite: DimmingSuite, options: Options, progress) -> Planned[Dimmed]:
        return Planned(suite, [Dimmed(factor=factor) for factor in suite.factors])

    def lab(self, device, cache, batch_size, *, audit) -> DimmingLab:
        return DimmingLab()

    def board(self, records, *, claimed=()) -> pd.DataFrame:
        rows = [
            {
                "suite": record.suite,
                "factor": record.unit.factor,
                "status": record.status,
                "images": len(record.victims),
                **{metric: sum(values) / len(values) for metric, values in record.fidelity.items()},
            }
            for record in records
        ]
        return pd.DataFrame(rows)


@pytest.fixture(autouse=True)
def dimming(monkeypatch):
    monkeypatch.setattr(known, "_PROTOCOLS", dict(known._PROTOCOLS))
    monkeypatch.setattr(known, "KINDS", known.KINDS.copy())
    monkeypatch.setattr(boards, "KINDS", known.KINDS)
    known.register_protocol(Dimming())


@pytest.fixture
def suite(tmp_path) -> Path:
    path = tmp_path / "dim.toml"
    path.write_text(SUITE)
    return path


def test_it_goes_through_every_verb(suite, tmp_path, dpbench):
    run, board = tmp_path / "run", tmp_path / "board.csv"
    planned = dpbench("run", suite, "--output", run, "--dry-run")
    assert planned.status == 0
    assert "2 lamps, 2 to run" in planned.out
    done = dpbench("run", suite, "--device", "cpu", "--output", run)
    assert done.status == 0, done.err
    assert "2 of 2 lamps to run" in done.out
    assert "dimmed-0.5" in done.out
    assert "0 of 2 lamps to run" in dpbench("run", suite, "--device", "cpu", "--output", run).out
    assert dpbench("leaderboard", run, "--output", board).status == 0
    assert board.read_bytes() == (run / "board.csv").read_bytes()
    shown = dpbench("show", run, "--cell", "dimmed-0.5*", "--output", tmp_path / "one.png")
    assert shown.status == 0
    assert (tmp_path / "one.png").is_file()
    verified = dpbench("verify", run)
    assert "2 records, the figures of 4 images computed again" in verified.out
    same = dpbench("check", run, "--baseline", board)
    assert same.status == 0, same.out + same.err


def test_the_gate_compares_its_boards(suite, tmp_path, dpbench):
    run = tmp_path / "run"
    dpbench("run", suite, "--device", "cpu", "--output", run)
    accepted = pd.read_csv(run / "board.csv")
    accepted.loc[accepted["factor"] == 0.5, "ssim"] -= 0.2
    accepted.to_csv(tmp_path / "accepted.csv", index=False)
    outcome = dpbench("check", run, "--baseline", tmp_path / "accepted.csv")
    assert outcome.status == 1
    assert "leaks more" in outcome.out
    assert "dim at 0.5" in outcome.out


def test_what_fails_is_a_record_and_the_others_go_on(suite, tmp_path, dpbench):
    suite.write_text(SUITE.replace("1.0", "-1.0"))
    outcome = dpbench("run", suite, "--device", "cpu", "--output", tmp_path / "run")
    assert outcome.status == 1
    assert "light cannot be negative" in outcome.out
    assert len(list((tmp_path / "run" / "dimming").glob("*.json"))) == 2


def test_a_change_by_hand_is_noticed(suite, tmp_path, dpbench):
    run = tmp_path / "run"
    dpbench("run", suite, "--device", "cpu", "--output", run)
    path = next((run / "dimming").glob("*.json"))
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"fidelity": {"ssim": [0.1, 0.1]}}))
    assert dpbench("verify", run).status == 1
    assert "was altered or damaged" in dpbench("leaderboard", run, "--output", tmp_path / "b.csv").err


def test_from_python_too(suite, tmp_path):
    board = package.run(DimmingSuite(protocol="dimming", name="dim", factors=[0.25]), output=tmp_path / "run")
    assert board["factor"].tolist() == [0.25]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SUITE + "factor = 1.0\n", "unknown key"),
        (SUITE.replace("dimming", "dimmin"), "did you mean 'dimming'"),
        (SUITE.replace("1.0", '"x"'), "factors"),
    ],
)
def test_a_wrong_suite_is_refused_in_a_line(text, words, suite, dpbench):
    suite.write_text(text)
    outcome = dpbench("run", suite)
    assert outcome.status == 2
    assert len(outcome.err.splitlines()) == 1
    assert words in outcome.err


def test_two_protocols_keep_apart(suite, tmp_path, dpbench, monkeypatch):
    run = tmp_path / "run"
    dpbench("run", suite, "--device", "cpu", "--output", run)
    (tmp_path / "other" / "records").mkdir(parents=True)
    outcome = dpbench("leaderboard", run, tmp_path / "other", "--output", tmp_path / "b.csv")
    assert outcome.status == 2
    assert "give one kind at a time" in outcome.err

    class Other(Dimming):
        name: ClassVar = "other"

    with pytest.raises(DpbenchError, match="keep their records in one folder"):
        known.register_protocol(Other())
