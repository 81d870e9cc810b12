"""Attacks that combine what others found: when they run, and what they are given."""

from pathlib import Path

import pytest
import torch
from parsing import parse_suite
from tiny_suite import unfitted_suite

from dpbench.api import plan as make_plan
from dpbench.records.record import Record
from dpbench.running.runner import execute

AVERAGE = """
from typing import ClassVar
import torch
from dpbench import Attack

class Average(Attack):
    name: ClassVar[str] = "average"
    needs: ClassVar[str] = "weights"
    combines: ClassVar[bool] = True

    def reconstruct(self, seen, *, generator):
        seen.notes["found"] = sorted(seen.found)
        return torch.stack(list(seen.found.values())).mean(0)

class Constant(Attack):
    name: ClassVar[str] = "constant"
    needs: ClassVar[str] = "query"
    value: float = 0.25

    def reconstruct(self, seen, *, generator):
        if self.value < 0:
            raise ValueError("fails")
        return torch.full((len(seen.released), *seen.image_shape), self.value)
"""


@pytest.fixture
def suite(tmp_path: Path) -> str:
    file = tmp_path / "average.py"
    file.write_text(AVERAGE)
    average = {"name": f"{file}:Average", "victims": 4}
    constants = {"name": f"{file}:Constant", "value": [0.25, 0.75, -1.0]}
    attacks = [average, "mean-image", constants]
    return unfitted_suite(["none", "gaussian"], attacks, victims=6, threat_models=["query", "weights"])


def averages(records: list[Record]) -> list[Record]:
    return [record for record in records if record.cell.combined]


def test_an_attack_that_combines_runs_last_and_sees_what_others_found(suite: str, tmp_path: Path) -> None:
    plan = make_plan(parse_suite(suite, origin="test"), output=tmp_path / "run")
    settings = [cell.defense.name for cell in plan.units]
    assert settings == sorted(settings, key=["none", "gaussian"].index)
    records = execute(plan, device="cpu")
    assert [record.cell.attack.name.endswith("Average") for record in records].count(True) == 2
    for name in ("none", "gaussian"):
        of_defense = [record for record in records if record.cell.defense.name == name]
        assert of_defense[-1].cell.attack.name.endswith("Average")
    first, second = averages(records)
    assert first.status == second.status == "ok", first.error
    assert len(first.notes["found"]) == 2  # neither the floor nor the attack that failed
    constants = {record.id for record in records if record.cell.attack.name.endswith("Constant")}
    assert set(first.cell.combined) | set(second.cell.combined) == constants

    # in a run that goes on, what others found is found again
    (tmp_path / "run" / "records" / f"{first.id}.json").unlink(missing_ok=True)
    again = execute(make_plan(parse_suite(suite, origin="test"), output=tmp_path / "run"), device="cpu")
    assert averages(again)[0].fidelity == first.fidelity
    assert torch.tensor(first.fidelity["mse"]).isfinite().all()


def test_what_is_combined_is_part_of_the_identity(suite: str, tmp_path: Path) -> None:
    with_three = make_plan(parse_suite(suite, origin="test"), output=tmp_path / "run")
    fewer = make_plan(parse_suite(suite.replace("0.25, ", ""), origin="test"), output=tmp_path / "run")
    ids = [{cell.id for cell in plan.units if cell.combined} for plan in (with_three, fewer)]
    assert not ids[0] & ids[1]


def test_only_weaker_grants_are_combined(suite: str, tmp_path: Path) -> None:
    weak = suite.replace('["query", "weights"]', '["static", "weights"]')
    plan = make_plan(parse_suite(weak, origin="test"), output=tmp_path / "run")
    cells = {cell.id: cell for cell in plan.units}
    combining = [cell for cell in plan.units if cell.combined]
    static = [cell for cell in combining if cell.threat_model == "static"]
    assert static
    assert all(cells[name].threat_model == "static" for cell in static for name in cell.combined)
    assert any(cells[name].threat_model == "static" for name in combining[-1].combined)


def test_only_the_combining_cell_is_asked_for(suite: str, tmp_path: Path) -> None:
    plan = make_plan(parse_suite(suite, origin="test"), output=tmp_path / "run", only="none*average")
    (record,) = execute(plan, device="cpu")
    assert record.status == "ok", record.error
    assert len(record.notes["found"]) == 2  # type: ignore[arg-type]
